"""When and where: Prefect flows around the stages."""
