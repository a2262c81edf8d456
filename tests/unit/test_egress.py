"""Which addresses and URLs tools may reach."""

from ipaddress import ip_address

import pytest

from agent.egress import AddressClass, EgressPolicy, EgressRefused, address_class, check, check_url, literal_address


async def no_resolver(host: str, port: int) -> list[str]:
    raise AssertionError(f"{host} was looked up")


def resolving(*addresses: str):
    async def resolver(host: str, port: int) -> list[str]:
        return list(addresses)

    return resolver


CLASSES = {
    AddressClass.PUBLIC: "8.8.8.8 1.1.1.1 172.15.0.1 172.32.0.1 2606:4700::1111 ::ffff:8.8.8.8 64:ff9b::808:808",
    AddressClass.LOOPBACK: "127.0.0.1 127.255.0.1 ::1 ::ffff:127.0.0.1 2002:7f00:1:: 64:ff9b::7f00:1 ::7f00:1 "
    "2606::5efe:7f00:1",
    AddressClass.PRIVATE: "10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 fc00::1 fdff::1 fec0::1 ::ffff:10.0.0.1",
    AddressClass.LINK_LOCAL: "169.254.1.1 fe80::1",
    AddressClass.CGNAT: "100.64.0.1 100.127.255.255 ::ffff:100.64.0.1",
    AddressClass.METADATA: "169.254.169.254 169.254.170.2 100.100.100.200 168.63.129.16 fd00:ec2::254 fd20:ce::254 "
    "::ffff:169.254.169.254 64:ff9b::a9fe:a9fe 2002:a9fe:a9fe:: 64:ff9b:1::a9fe:a9fe",
    AddressClass.MULTICAST: "224.0.0.1 239.1.1.1 ff02::1",
    AddressClass.UNSPECIFIED: "0.0.0.0 0.1.2.3 :: ::ffff:0.0.0.0",
    AddressClass.RESERVED: "255.255.255.255 240.0.0.1 192.0.2.1 198.18.0.1 2001:db8::1 2002:808:808:: 100::1 "
    "2001:0:4136:e378:8000:63bf:f7f7:f7f7",
}


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, row in CLASSES.items() for text in row.split()])
def test_each_address_has_its_class_whatever_it_is_wrapped_in(kind: AddressClass, text: str) -> None:
    assert address_class(ip_address(text)) is kind


@pytest.mark.parametrize(
    "host",
    [
        *("2130706433", "0x7f000001", "017700000001", "127.1", "127.0.1", "0x7f.0.0.1", "0177.0.0.1", "127.0.0.0x1"),
        *("010.0.0.1", "1.2.3.4.5", "256.1.1.1", "127.0.0.1.", "0x", "a.0x7f", "[::1", "fe80::1%eth0", "::1::2"),
        "127.0.0.1%2e",
    ],
)
def test_odd_spellings_of_addresses_are_refused(host: str) -> None:
    with pytest.raises(EgressRefused):
        literal_address(host)


@pytest.mark.parametrize(
    "host", ["example.com", "a1.b2", "deadbeef", "0x7f.example.com", "1.example", "xn--bcher-kva.de"]
)
def test_names_are_no_addresses(host: str) -> None:
    assert literal_address(host) is None


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "gopher://example.com/",
        "ftp://example.com/",
        "unix:///var/run/docker.sock",
        "//example.com/",
        "example.com",
        "http://",
        "http:///path",
        "http://user@example.com/",
        "http://user:pass@example.com/",
        "http://example.com@127.0.0.1/",
        "http://example.com\\@127.0.0.1/",
        "http://exa mple.com/",
        "http://example.com/\r\nHost: other",
        "http://example.com\x00.evil/",
        "http://①②⑦.⓪.⓪.①/",
        "http://bücher.example/",
        "http://example.com:99999/",
        "http://example.com:port/",
        "http://[::1/",
        "http://-bad.example/",
        "http://2130706433/",
    ],
)
def test_urls_that_no_tool_may_have_are_refused(url: str) -> None:
    with pytest.raises(EgressRefused) as refused:
        check_url(url)
    assert refused.value.message.endswith(".")


def test_a_plain_url_gives_its_host_and_port() -> None:
    assert check_url("https://example.com/a?b=@c") == ("example.com", 443)
    assert check_url("http://example.com:8080") == ("example.com", 8080)
    assert check_url("http://[2606:4700::1111]/") == ("2606:4700::1111", 80)


async def test_a_public_name_gives_the_addresses_to_connect_to() -> None:
    policy = EgressPolicy(resolver=resolving("8.8.8.8", "2606:4700::1111"))
    assert await check("https://example.com", policy) == ["8.8.8.8", "2606:4700::1111"]


async def test_one_private_address_among_public_ones_refuses_the_name() -> None:
    with pytest.raises(EgressRefused, match="private address"):
        await check("https://example.com", EgressPolicy(resolver=resolving("8.8.8.8", "10.0.0.1")))


async def test_a_literal_address_is_not_looked_up() -> None:
    assert await check("http://8.8.8.8/", EgressPolicy(resolver=no_resolver)) == ["8.8.8.8"]
    with pytest.raises(EgressRefused, match="loopback"):
        await check("http://127.0.0.1:8000/", EgressPolicy(resolver=no_resolver))


@pytest.mark.parametrize("host", ["metadata.google.internal", "METADATA.google.internal.", "instance-data"])
async def test_metadata_names_are_refused_before_they_are_looked_up(host: str) -> None:
    with pytest.raises(EgressRefused, match="metadata"):
        await check(f"http://{host}/", EgressPolicy(resolver=no_resolver))


async def test_an_allowed_host_may_be_private_and_only_that_one() -> None:
    policy = EgressPolicy.of(["Prometheus.internal"], resolver=resolving("10.1.2.3"))
    assert await check("http://prometheus.INTERNAL:9090/", policy) == ["10.1.2.3"]
    with pytest.raises(EgressRefused, match="private"):
        await check("http://other.internal:9090/", policy)


async def test_an_allowed_host_with_a_port_is_allowed_on_that_port() -> None:
    policy = EgressPolicy.of(["db.internal:9090"], resolver=resolving("10.1.2.3"))
    assert await check("http://db.internal:9090/", policy)
    with pytest.raises(EgressRefused):
        await check("http://db.internal:9091/", policy)


async def test_an_allowed_network_opens_its_addresses_alone() -> None:
    policy = EgressPolicy.of(allow_cidrs=["10.1.0.0/16", "fd12::/16"], resolver=resolving("10.1.2.3", "fd12::1"))
    assert await check("http://a.internal/", policy)
    with pytest.raises(EgressRefused):
        await check("http://10.2.0.1/", policy)


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/", "http://[fd00:ec2::254]/", "http://0.0.0.0/", "http://224.0.0.1/"]
)
async def test_no_allow_list_opens_metadata_multicast_or_the_unspecified_address(url: str) -> None:
    policy = EgressPolicy.of(["169.254.169.254", "0.0.0.0", "224.0.0.1"], ["0.0.0.0/0", "::/0"])
    with pytest.raises(EgressRefused, match="never reach"):
        await check(url, policy)


@pytest.mark.parametrize("port", [1, 22, 25, 53, 445, 631])
async def test_ports_of_other_protocols_are_refused_unless_listed(port: int) -> None:
    with pytest.raises(EgressRefused, match="not open to tools"):
        await check(f"http://8.8.8.8:{port}/", EgressPolicy(resolver=no_resolver))
    assert await check(f"http://8.8.8.8:{port}/", EgressPolicy.of([f"8.8.8.8:{port}"]))


@pytest.mark.parametrize("answer", [[], ["not-an-address"], ["fe80::1%eth0"]])
async def test_answers_of_dns_that_are_no_address_of_a_server_are_refused(answer: list[str]) -> None:
    with pytest.raises(EgressRefused):
        await check("http://example.com/", EgressPolicy(resolver=resolving(*answer)))


async def test_a_name_that_does_not_resolve_is_told_in_a_sentence() -> None:
    async def broken(host: str, port: int) -> list[str]:
        raise OSError("Name or service not known")

    with pytest.raises(EgressRefused, match=r"`nowhere\.example` has no address"):
        await check("http://nowhere.example/", EgressPolicy(resolver=broken))


def test_a_wrong_network_in_the_allow_list_is_told_in_a_sentence() -> None:
    with pytest.raises(EgressRefused, match=r"10\.0\.0\.1/8"):
        EgressPolicy.of(allow_cidrs=["10.0.0.1/8"])
