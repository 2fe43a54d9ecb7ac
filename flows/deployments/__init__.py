"""Matrix → Prefect: a work pool for each chip, a deployment of `release` for each cell and of `baseline` for each chip.

`wanted` says what the matrix wants, `changes` what differs from what Prefect has; both know nothing of Prefect. `api`
asks Prefect and changes it, `server` says what is wrong with it, and `deploy` is the command.
"""
