"""A cluster without a server, for what sends one kind of request."""

from exclave.api.requests import Object, Request


class FakeCluster:
    """A cluster that gives these answers one after the other, and then the last one again."""

    def __init__(self, *answers: Object | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[Request] = []

    async def send(self, request: Request) -> Object:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer
