"""Checking a release without FlagRelease's database: a signed statement of what was published, and its verification."""
