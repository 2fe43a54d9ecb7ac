"""Stands in every image: exit code 0 when the model server in the container lists its models.

The port is that of the image's cell; a container that serves on another sets FLAGRELEASE_PORT.
"""

import os
import sys
import urllib.request

url = f"http://127.0.0.1:{os.environ['FLAGRELEASE_PORT']}/v1/models"
try:
    # A proxy of the environment is for the world outside, not for this container.
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as answer:
        answer.read()
except OSError as error:
    sys.exit(f"{url}: {error}")
