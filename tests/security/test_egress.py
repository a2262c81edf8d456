"""Row 17, 18 and 33: what a hostile name, redirect or server can make a guarded client do."""

import httpx
import httpx2
import pytest

from agent.egress import EgressPolicy, EgressRefused
from agent.egress_http import GuardedTransport, GuardedTransport2, guarded_client, send
from tests.unit.declared.fake_web import Asked, FakeWeb, Reply, fake_web


class Rebinding:
    """A name that is one address when it is looked up first, and another after."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers, self.asked = list(answers), 0

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked += 1
        return self.answers[min(self.asked, len(self.answers)) - 1]


def loopback(*hosts: str, answer: str = "127.0.0.1") -> EgressPolicy:
    return EgressPolicy.of(hosts or ("good.test",), resolver=Rebinding([answer]))


async def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    resolver = Rebinding(["127.0.0.1"], ["169.254.169.254"])
    policy = EgressPolicy.of(["good.test"], resolver=resolver)
    async with fake_web() as web, guarded_client(policy, timeout_s=5) as client:
        answer = await client.get(f"http://good.test:{web.port}/")
    assert answer.text == "fine"
    assert resolver.asked == 1
    assert web.asked[0].headers["host"] == f"good.test:{web.port}"


async def test_a_name_that_moves_to_loopback_is_refused_at_its_next_connection() -> None:
    resolver = Rebinding(["8.8.8.8"], ["127.0.0.1"])
    policy = EgressPolicy(resolver=resolver)
    async with fake_web() as web, guarded_client(policy, timeout_s=5) as client:
        assert await policy.addresses("moves.test", web.port) == ["8.8.8.8"]
        with pytest.raises(EgressRefused, match="loopback"):
            await client.get(f"http://moves.test:{web.port}/")
    assert web.connections == 0


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{port}/", "http://localhost:{port}/", "http://[::ffff:127.0.0.1]:{port}/"]
)
async def test_loopback_is_refused_before_a_connection_is_made(url: str) -> None:
    policy = EgressPolicy(resolver=Rebinding(["127.0.0.1"]))
    async with fake_web() as web, guarded_client(policy, timeout_s=5) as client:
        with pytest.raises(EgressRefused, match="loopback"):
            await client.get(url.format(port=web.port))
    assert web.connections == 0


async def test_a_proxy_of_the_environment_is_no_way_round(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fake_web() as proxy, fake_web() as web:
        monkeypatch.setenv("HTTP_PROXY", proxy.origin)
        monkeypatch.setenv("ALL_PROXY", proxy.origin)
        async with guarded_client(loopback(), timeout_s=5) as client:
            await client.get(f"http://good.test:{web.port}/")
    assert proxy.connections == 0
    assert len(web.asked) == 1


async def fetch(web: FakeWeb, policy: EgressPolicy, *, off_origin: bool = False, method: str = "GET", **more):
    async with guarded_client(policy, timeout_s=5) as client:
        request = client.build_request(method, f"http://good.test:{web.port}/start", **more)
        response = await send(client, request, off_origin=off_origin)
        await response.aread()
        return response


def redirecting(to: str, status: str = "302 Found"):
    def reply(asked: Asked) -> Reply:
        return Reply(status, {"location": to}) if asked.target == "/start" else Reply()

    return reply


async def test_a_redirect_on_the_same_origin_is_followed() -> None:
    async with fake_web(redirecting("/end")) as web:
        assert (await fetch(web, loopback())).text == "fine"
    assert [asked.target for asked in web.asked] == ["/start", "/end"]


@pytest.mark.parametrize(
    "to", ["http://169.254.169.254/latest/meta-data", "http://metadata.google.internal/", "http://2852039166/"]
)
@pytest.mark.parametrize("off_origin", [False, True])
async def test_a_redirect_to_metadata_is_refused(to: str, off_origin: bool) -> None:
    async with fake_web(redirecting(to)) as web:
        with pytest.raises(EgressRefused):
            await fetch(web, loopback(), off_origin=off_origin)
    assert len(web.asked) == 1


@pytest.mark.parametrize("to", ["file:///etc/passwd", "gopher://127.0.0.1/", "http://u:p@good.test/"])
async def test_a_redirect_to_another_scheme_or_with_a_user_is_refused(to: str) -> None:
    async with fake_web(redirecting(to)) as web:
        with pytest.raises((EgressRefused, httpx.UnsupportedProtocol)):
            await fetch(web, loopback(), off_origin=True)
    assert len(web.asked) == 1


async def test_a_redirect_off_the_origin_is_refused_where_the_origin_is_fixed() -> None:
    async with fake_web() as other, fake_web(redirecting(f"http://other.test:{other.port}/")) as web:
        with pytest.raises(EgressRefused, match="another origin"):
            await fetch(web, loopback("good.test", "other.test"))
    assert other.connections == 0


async def test_another_origin_sees_no_credential_whatever_its_header_is_called() -> None:
    secrets = {"Authorization": "Bearer fake", "X-Api-Key": "fake", "Cookie": "fake=1", "X-Anything": "fake"}
    async with fake_web() as other, fake_web(redirecting(f"http://other.test:{other.port}/end")) as web:
        await fetch(web, loopback("good.test", "other.test"), off_origin=True, headers=secrets)
    assert web.asked[0].headers["x-api-key"] == "fake"
    (seen,) = other.asked
    assert seen.headers["host"] == f"other.test:{other.port}"
    assert "fake" not in str(seen.headers)


async def test_a_body_is_not_replayed_to_another_origin() -> None:
    async with fake_web() as other:
        reply = redirecting(f"http://other.test:{other.port}/end", "307 Temporary Redirect")
        async with fake_web(reply) as web:
            policy = loopback("good.test", "other.test")
            with pytest.raises(EgressRefused, match="not followed"):
                await fetch(web, policy, off_origin=True, method="POST", json={"secret": "fake"})
    assert other.connections == 0


async def test_endless_redirects_end() -> None:
    async with fake_web(lambda asked: Reply("302 Found", {"location": "/start"})) as web:
        with pytest.raises(EgressRefused, match="more than 3 times"):
            await fetch(web, loopback())
    assert len(web.asked) == 4


async def test_httpx2_is_guarded_alike_and_sees_a_refusal_as_a_failed_connection() -> None:
    resolver = Rebinding(["127.0.0.1"], ["169.254.169.254"])
    policy = EgressPolicy.of(["good.test"], resolver=resolver)
    async with fake_web() as web, httpx2.AsyncClient(transport=GuardedTransport2(policy)) as client:
        assert (await client.get(f"http://good.test:{web.port}/")).text == "fine"
        for url in (
            f"http://evil.test:{web.port}/",
            "http://u:p@good.test/",
            "http://169.254.169.254/",
            "http://0x7f.1/",
        ):
            with pytest.raises(httpx2.ConnectError) as refused:
                await client.get(url)
            assert isinstance(refused.value, EgressRefused)
            assert refused.value.message
    assert len(web.asked) == 1


async def test_httpx2_checks_each_redirect_that_it_follows() -> None:
    async with (
        fake_web(redirecting("http://169.254.169.254/")) as web,
        httpx2.AsyncClient(transport=GuardedTransport2(loopback()), follow_redirects=True) as client,
    ):
        with pytest.raises(EgressRefused, match="metadata"):
            await client.get(f"http://good.test:{web.port}/start")


async def test_the_transport_alone_guards_a_client_that_follows_redirects() -> None:
    async with (
        fake_web(redirecting("http://10.0.0.1/")) as web,
        httpx.AsyncClient(transport=GuardedTransport(loopback()), follow_redirects=True) as client,
    ):
        with pytest.raises(EgressRefused, match="private"):
            await client.get(f"http://good.test:{web.port}/start")


async def test_a_dead_first_address_does_not_hide_a_living_second() -> None:
    policy = EgressPolicy.of(["good.test"], resolver=Rebinding(["127.0.0.2", "127.0.0.1"]))
    async with fake_web() as web, guarded_client(policy, timeout_s=5) as client:
        assert (await client.get(f"http://good.test:{web.port}/")).text == "fine"


async def test_sockets_of_this_machine_are_refused() -> None:
    transport = GuardedTransport(EgressPolicy())
    with pytest.raises(EgressRefused):
        await transport._pool._network_backend.connect_unix_socket("/var/run/docker.sock")
    await transport.aclose()
