"""Which certificate a proxy serves, by a TLS handshake with its admin server.

Rules: nothing is asked once hands are shaken, so no policy has a say: linkerd2-proxy ends TLS for its own name before
it looks at any request, and it can do so exactly when `/ready` would say yes. It takes clients without a certificate.
We check no chain: TLS 1.3 proves that it has the leaf's key, and whoever asks compares the leaf with our own.
Sources: linkerd2-proxy/linkerd/app/admin/src/stack.rs, linkerd/app/src/lib.rs (the latch of `/ready`).
"""

import ssl

import trio


async def read_leaf(address: str, port: int, server_name: str, patience: float) -> bytes | None:
    """The leaf that it serves, DER; None if it serves none under this name within `patience` seconds."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        with trio.fail_after(patience):
            plain = await trio.open_tcp_stream(address, port)
            async with trio.SSLStream(plain, context, server_hostname=server_name, https_compatible=True) as stream:
                await stream.do_handshake()
                leaf: bytes | None = stream.getpeercert(binary_form=True)
                return leaf
    except (OSError, trio.BrokenResourceError, trio.TooSlowError):
        return None
