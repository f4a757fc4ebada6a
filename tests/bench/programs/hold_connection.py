"""The libraries of an agent with one connection to an API server (URL, CA file), doing nothing."""

import ssl
import sys

import cryptography.x509  # noqa: F401
import dns.message  # noqa: F401
import h2.connection  # noqa: F401
import httpx
import jwcrypto.jwe  # noqa: F401
import netifaces  # noqa: F401
import psutil  # noqa: F401
import trio


async def connect(url, ca):
    async with httpx.AsyncClient(verify=ssl.create_default_context(cafile=ca), trust_env=False) as client:
        await client.get(url)
        print("connected", flush=True)
        await trio.sleep_forever()


trio.run(connect, *sys.argv[1:])
