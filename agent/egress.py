"""The egress guard: which addresses a tool's request may reach, decided before and again at every connection."""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from agent.errors import Invalid

IPAddress = IPv4Address | IPv6Address
Resolver = Callable[[str, int], Awaitable[list[str]]]
RESOLVE_S = 5.0
WEB_PORTS = frozenset({80, 443})
PRIVILEGED = 1024
"""Below this, only the web's own ports: nobody can be made to speak HTTP to a mail server."""


class EgressRefused(Invalid):
    """A request to an address that tools may not reach."""

    code = "egress_refused"


class AddressClass(StrEnum):
    """What kind of address it is; only `public` is open to everyone."""

    PUBLIC = "public"
    LOOPBACK = "loopback"
    PRIVATE = "private"
    LINK_LOCAL = "link-local"
    CGNAT = "carrier-grade NAT"
    RESERVED = "reserved"
    METADATA = "cloud metadata"
    MULTICAST = "multicast"
    UNSPECIFIED = "unspecified"


NEVER = frozenset({AddressClass.METADATA, AddressClass.MULTICAST, AddressClass.UNSPECIFIED})
"""Not opened by any allow-list: these hand out a machine's credentials, or are no address of a server."""

METADATA_NAMES = frozenset(
    {"metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"}
)
_METADATA = frozenset(
    ip_address(text)
    for text in (
        *("169.254.169.254", "169.254.170.2", "169.254.170.23", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
        *("fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254"),
    )
)
_CGNAT = IPv4Network("100.64.0.0/10")
_NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
_COMPATIBLE = IPv6Network("::/96")
_SITE_LOCAL = IPv6Network("fec0::/10")
_ISATAP = (0x00005EFE, 0x02005EFE)
_LAST_LABEL_IS_A_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9a-fA-F]*)\.?")
_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(?:\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*")


async def system_resolver(host: str, port: int) -> list[str]:
    """Return the addresses that this machine's own resolver gives."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass(frozen=True)
class EgressPolicy:
    """What beside the public internet may be reached: hosts by name (`name` or `name:port`) and networks by CIDR."""

    allow_hosts: frozenset[str] = frozenset()
    allow_cidrs: tuple[IPv4Network | IPv6Network, ...] = ()
    resolver: Resolver = field(default=system_resolver, repr=False, compare=False)

    @classmethod
    def of(
        cls, allow_hosts: Iterable[str] = (), allow_cidrs: Iterable[str] = (), resolver: Resolver = system_resolver
    ) -> "EgressPolicy":
        """Return the policy for what an operator wrote; raises EgressRefused for what is no host or network."""
        networks: list[IPv4Network | IPv6Network] = []
        for text in allow_cidrs:
            try:
                networks.append(ip_network(text.strip()))
            except ValueError as error:
                raise EgressRefused(f"`{text}` is not a network: write it as 10.1.0.0/16.") from error
        return cls(frozenset(_folded(host) for host in allow_hosts), tuple(networks), resolver)

    def names(self, host: str, port: int) -> bool:
        """Whether the allow-list names that host, with that port or with any."""
        return _folded(host) in self.allow_hosts or f"{_folded(host)}:{port}" in self.allow_hosts

    async def addresses(self, host: str, port: int) -> list[str]:
        """Return the addresses to connect to, every one of them checked; raises EgressRefused if one may not be."""
        self.check_port(host, port)
        literal = literal_address(host)
        found = [literal] if literal else await self._resolved(host, port)
        for address in found:
            self.check_address(host, port, address)
        return [str(address) for address in found]

    def check_port(self, host: str, port: int) -> None:
        if not 0 < port < 65536:
            raise EgressRefused(f"Port {port} of `{host}` is no port.")
        if port < PRIVILEGED and port not in WEB_PORTS and f"{_folded(host)}:{port}" not in self.allow_hosts:
            raise EgressRefused(
                f"Port {port} of `{host}` is not open to tools: use 80, 443 or one from {PRIVILEGED} up, "
                f"or allow `{host}:{port}`."
            )

    def check_address(self, host: str, port: int, address: IPAddress) -> None:
        kind = address_class(address)
        if kind is AddressClass.PUBLIC:
            return
        listed = self.names(host, port) or any(
            address.version == network.version and address in network for network in self.allow_cidrs
        )
        if kind in NEVER:
            raise EgressRefused(f"`{host}` is a {kind} address ({address}), which tools never reach.")
        if not listed:
            raise EgressRefused(
                f"`{host}` is a {kind} address ({address}): tools reach only public addresses and the private hosts "
                "that an operator allows."
            )

    async def _resolved(self, host: str, port: int) -> list[IPAddress]:
        name = _folded(host)
        if not _NAME.fullmatch(name) or len(name) > 253:
            raise EgressRefused(f"`{host[:80]}` is not a host name.")
        if name in METADATA_NAMES:
            raise EgressRefused(f"`{host}` is a cloud metadata host, which tools never reach.")
        try:
            async with asyncio.timeout(RESOLVE_S):
                texts = await self.resolver(name, port)
        except (OSError, TimeoutError, UnicodeError) as error:
            raise EgressRefused(f"`{host}` has no address: check the name, or this machine's DNS.") from error
        if not texts:
            raise EgressRefused(f"`{host}` has no address: check the name, or this machine's DNS.")
        return [_parsed(text) for text in texts]


def address_class(address: IPAddress) -> AddressClass:
    """Return the class of an address; one that carries an IPv4 address inside is no better than that one."""
    if address in _METADATA:
        return AddressClass.METADATA
    inner = _embedded(address)
    if inner is not None and (kind := address_class(inner)) is not AddressClass.PUBLIC:
        return kind
    if address.is_unspecified or (address.version == 4 and address in IPv4Network("0.0.0.0/8")):
        return AddressClass.UNSPECIFIED
    if address.is_loopback:
        return AddressClass.LOOPBACK
    if address.is_multicast:
        return AddressClass.MULTICAST
    if address.is_link_local:
        return AddressClass.LINK_LOCAL
    if address.version == 4 and address in _CGNAT:
        return AddressClass.CGNAT
    return _rest(address, inner)


def _rest(address: IPAddress, inner: IPv4Address | None) -> AddressClass:
    private = (
        ip_network("10.0.0.0/8"),
        ip_network("172.16.0.0/12"),
        ip_network("192.168.0.0/16"),
        ip_network("fc00::/7"),
        _SITE_LOCAL,
    )
    if any(address.version == network.version and address in network for network in private):
        return AddressClass.PRIVATE
    if isinstance(address, IPv6Address) and inner is not None:
        translated = any(address in network for network in _NAT64) or address.ipv4_mapped is not None
        return AddressClass.PUBLIC if translated else AddressClass.RESERVED
    return AddressClass.PUBLIC if address.is_global and not address.is_reserved else AddressClass.RESERVED


def _embedded(address: IPAddress) -> IPv4Address | None:
    """Return the IPv4 address inside an IPv6 address: mapped, compatible, 6to4, NAT64, Teredo or ISATAP."""
    if isinstance(address, IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    low = IPv4Address(int(address) & 0xFFFFFFFF)
    if any(address in network for network in _NAT64) or (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
        return low
    return low if address in _COMPATIBLE and int(address) > 1 else None


def literal_address(host: str) -> IPAddress | None:
    """Return the address that a host spells out, or None for a name; odd spellings of an address are refused."""
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if "%" in bare:
        raise EgressRefused(f"`{host[:80]}` has a zone or an escape in its host: write a plain host.")
    try:
        return ipaddress.ip_address(bare)
    except ValueError:
        pass
    if ":" in bare or _LAST_LABEL_IS_A_NUMBER.fullmatch(bare):
        # Resolvers read 2130706433, 0x7f.1 and 0177.0.0.1 all as 127.0.0.1; nobody needs to write one so.
        raise EgressRefused(f"`{host[:80]}` is an odd spelling of an address: write four decimal numbers.")
    return None


def check_url(url: str) -> tuple[str, int]:
    """Return host and port of a URL that tools may be given at all; the host's addresses are not looked up."""
    if any(ord(character) <= 0x20 or ord(character) == 0x7F or character == "\\" for character in url):
        raise EgressRefused("The URL has a space, a control character or a backslash in it: write it plainly.")
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError as error:
        raise EgressRefused("The URL can't be read: write it as https://host/path.") from error
    if parts.scheme not in ("http", "https"):
        raise EgressRefused(f"`{parts.scheme[:20]}` is not a scheme for tools: use https or http.")
    if "@" in parts.netloc:
        raise EgressRefused("The URL has a user or password before its host: put credentials in a secret header.")
    if not host or not host.isascii():
        raise EgressRefused("The URL has no plain host name: write international names in their xn-- form.")
    literal = literal_address(host)
    if literal is None and not _NAME.fullmatch(_folded(host)):
        raise EgressRefused(f"`{host[:80]}` is not a host name.")
    return host, port if port is not None else {"http": 80, "https": 443}[parts.scheme]


async def check(url: str, policy: EgressPolicy) -> list[str]:
    """Return the checked addresses of a URL's host; raises EgressRefused where a tool may not go there."""
    return await policy.addresses(*check_url(url))


def _folded(host: str) -> str:
    return host.strip().rstrip(".").lower()


def _parsed(text: str) -> IPAddress:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError as error:
        raise EgressRefused("The host's address can't be read.") from error
