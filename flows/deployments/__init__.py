"""Matrix → Prefect: work pools, deployments of all flows, and automations that bring back runs that died.

`wanted` says what the matrix wants, `automations` what happens to dead runs, `changes` what differs from what Prefect
has; none of them knows Prefect. `api` asks Prefect and changes it, `server` says what is wrong with it, and `deploy` is
the command.
"""
