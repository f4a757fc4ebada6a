"""One object is followed by the sandbox's API server, which forgets what watches may start from when it restarts."""

from cryptography.hazmat.primitives.asymmetric import ec

from cluster.watch_run import Run, lines
from exclave.api.requests import Request
from exclave.cluster.watch import Action, Answered, Arrived, Fetch, Open, Opened, Report, Upserted
from exclave_sandbox.apiserver.access import TokenKey
from exclave_sandbox.apiserver.api import Api, Watch
from exclave_sandbox.apiserver.kinds import kinds
from exclave_sandbox.apiserver.messages import HttpRequest, Refusal
from exclave_sandbox.apiserver.messages import Reply as HttpReply
from support.store import make_store
from support.store import member as make_member


def test_one_object_is_followed_by_an_api_server_that_was_restarted_after_changes_of_others() -> None:
    """Its own version is too old for a watch then, and stays so while the object does not change."""
    store = make_store()
    api = Api(store, TokenKey(ec.generate_private_key(ec.SECP256R1())), "admin", lambda: 0.0, lambda: "uid")

    def respond(request: Request) -> HttpReply | Watch:
        headers = {"authorization": "Bearer admin"}
        return api.respond(HttpRequest(request.method, request.path, request.query, headers))

    def serve(action: Action) -> list[Report]:
        if isinstance(action, Fetch):
            reply = respond(action.request)
            assert isinstance(reply, HttpReply) and isinstance(reply.body, dict)
            return [Answered(reply.body)]
        assert isinstance(action, Open)
        watch = respond(action.request)
        assert isinstance(watch, Watch)
        try:
            changes = store.history.since_for_watch(watch.scope, watch.revision)
        except Refusal as refused:
            return [Opened(), lines(("ERROR", refused.status))]
        return [Opened(), lines(*(("ADDED", one) for one in watch.initial)), Arrived(b"".join(c.line for c in changes))]

    store.create(kinds.NAMESPACES, "", {"metadata": {"name": "shop"}})
    for name in ("web-abcde-1", "web-abcde-2"):
        store.create(kinds.MEMBERS, "shop", make_member(name))
    store.history.restart()
    run = Run("web-abcde-1")
    for _ in range(2):  # a read, and a stream
        run.hear(*serve(run.action))
    assert run.asks == "read"
    assert not run.pauses
    assert [type(event) for event in run.delivered] == [Upserted]
