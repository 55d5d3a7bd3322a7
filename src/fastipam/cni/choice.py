"""Choose the pools that an ADD gets its addresses from, in a cluster with AddressPools.

The first of these that exists decides: the pod's annotation, its namespace's annotation,
``ipam.pool``. Without any of them, every pool that need not be named may serve, in the order of
priority. Filters always apply, also to pools that are named, and an error says which filter refused
which pool. This module is imported only when the choice depends on the pod.
"""

from __future__ import annotations

from fastipam.addressing.addresses import format_cidr, format_ip
from fastipam.cluster.errors import NoBlock
from fastipam.cni import pod_annotations
from fastipam.configuration import pool_lines
from fastipam.errors import ConfigError
from fastipam.network.chosen import Chosen, Part

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from fastipam.cluster.registry import Namespace
    from fastipam.cni.pod_annotations import Choice
    from fastipam.cni.services import Services
    from fastipam.configuration.address_pools import AddressPool
    from fastipam.configuration.cluster import Settings
    from fastipam.configuration.network import Config
    from fastipam.configuration.pool_lines import Lines
    from fastipam.network import Network
    from fastipam.storage.store import Store

_POD = "pod annotation"
# The characters of a namespace's name, which is a DNS label (RFC 1123).
_LABEL = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")
_LONGEST_LABEL = 63
_SEE = "kubectl get addresspools shows them"


class Selection:
    """The pools that an ADD has chosen.

    ``lines`` are the chosen pools; ``permitted`` are the pools that may serve a requested address.
    ``is_settled`` says that the choice does not depend on which pools have a free block.
    """

    __slots__ = ("_made", "_reach", "_settings", "is_settled", "lines", "permitted")

    def __init__(
        self, settings: Settings, lines: Lines, permitted: Lines = (), reach: Lines | None = None
    ) -> None:
        self._settings = settings
        self.lines = lines
        self.permitted = permitted
        self.is_settled = all(len(groups) == 1 for _, groups in lines)
        self._reach = lines if reach is None else reach
        self._made: tuple[Network, Chosen] | None = None

    def within(self, services: Services, store: Store, network: str) -> Selection:
        """Return the same choice, without the pools that are used up at the moment."""
        if self.is_settled:
            return self
        reach = services.within_reach(store, network, self._settings, self.lines)
        if reach == self._reach:
            return self
        return Selection(self._settings, self.lines, self.permitted, reach)

    def narrow(self, network: Network, addresses: Sequence[tuple[int, int]]) -> Chosen:
        """Return the network, limited to the addresses of the chosen pools.

        In a family of which an address is requested, all permitted pools stay.
        """
        made = self._made
        if made is not None and made[0] is network and not addresses:
            return made[1]
        chosen = self._narrow(network, {family for family, _ in addresses})
        if not addresses:
            self._made = network, chosen
        return chosen

    def _narrow(self, network: Network, requested: Collection[int]) -> Chosen:
        settings, parts = self._settings, []
        reach, permitted = dict(self._reach), dict(self.permitted)
        for index, whole in enumerate(settings.pool.sets):
            family = whole.family
            if family in reach or family in requested:
                every = tuple(base for group in permitted.get(family, ()) for base in group)
                sets = [settings.set_of_group(family, one) for one in reach.get(family, ())]
                parts.append(Part(index, whole, sets, settings.set_of_group(family, every)))
        return Chosen.of(network, parts)


class Chooser:
    """Chooses the pools of one ADD. ``namespace`` is its pod's, or "" when the request names none.

    ``read`` has the labels and annotations of the namespace, or None unless the choice depends on
    them.
    """

    def __init__(
        self, services: Services, config: Config, store: Store, choice: Choice, namespace: str
    ) -> None:
        assert config.cluster is not None
        self._services = services
        self._config = config
        self._settings = config.cluster
        self._store = store
        self._choice = choice
        self._namespace = namespace
        self._addresses: Sequence[tuple[int, int]] = ()
        self.read: Namespace | None = None

    def select(self, addresses: Sequence[tuple[int, int]] = ()) -> Selection | None:
        """Return the chosen pools, or None when any address of each family will do.

        ``addresses`` are the requested ones. If no pool is left, the error says what refused each
        pool: ConfigError when pools were named, NoBlock when none was.
        """
        settings, self._addresses = self._settings, addresses
        for one in addresses:
            self._require(*one)
        wanted = self._choice.families
        self._require_families(wanted)
        permitted: Lines = ()
        if addresses:
            others = [one for one in settings.pools if not self._refusal(one, by_name=True)]
            permitted = pool_lines.named(others)
        if addresses and self._is_complete(wanted):
            return Selection(settings, (), permitted)
        names, source = self._names()
        if not names and not wanted and settings.is_uniform:
            return None
        if names:
            candidates = self._known(names, source)
        else:
            candidates = [
                one for one in settings.pools if not (one.manual or one.is_single or one.is_gone)
            ]
        if wanted:
            candidates = [one for one in candidates if one.family in wanted]
            self._require_pools(wanted, candidates)
        if names:
            lines = pool_lines.named(self._left(candidates, source))
        else:
            lines = pool_lines.automatic(
                self._left(candidates, "") if candidates or not addresses else ()
            )
            self._require_pools(wanted, [one for one in candidates if self._is_for_pod(one)])
        found = Selection(settings, lines, permitted)
        return found.within(self._services, self._store, self._config.name)

    def _require_families(self, wanted: frozenset[int]) -> None:
        """Raise ConfigError for a requested address of a family that the pod does not want."""
        for family, value in self._addresses:
            if wanted and family not in wanted:
                text = format_ip(family, value)
                raise ConfigError(
                    f"the requested address {text} is an IPv{family} address, but the pod may "
                    f"have IPv{next(iter(wanted))} only",
                    field=f"{_POD} {pod_annotations.FAMILIES}",
                    value=text,
                    hint=f"add v{family} to the annotation, or do not request that address",
                )

    def _is_complete(self, wanted: frozenset[int]) -> bool:
        """Return whether the ADD requests an address of each family that the pod has to get."""
        families = wanted or {one.family for one in self._settings.pools if not one.is_gone}
        return families <= {family for family, _ in self._addresses}

    def _require_pools(self, wanted: frozenset[int], pools: Sequence[AddressPool]) -> None:
        """Raise ConfigError when a family that the pod wants has neither a pool nor an address."""
        there = {one.family for one in pools} | {family for family, _ in self._addresses}
        for missing in sorted(wanted - there):
            raise ConfigError(
                f"no pool that this pod may use has IPv{missing} addresses",
                field=f"{_POD} {pod_annotations.FAMILIES}",
                value=missing,
                hint=f"remove v{missing}, or name a pool with IPv{missing} addresses; {_SEE}",
            )

    def _require(self, family: int, value: int) -> None:
        """Raise ConfigError when a filter refuses the pool of a requested address."""
        for one in self._settings.pools:
            its_family, first, last = one.whole()
            if family == its_family and first <= value <= last and not one.is_gone:
                why = self._refusal(one, by_name=True)
                if why:
                    text = format_ip(family, value)
                    is_listed = any(
                        family == its_family and low <= value <= high
                        for its_family, low, high in self._choice.addresses
                    )
                    raise ConfigError(
                        f"the requested address {text} cannot be assigned: {why}",
                        field=f"{_POD} {pod_annotations.ADDRESSES}" if is_listed else "",
                        value=text,
                    )

    def _names(self) -> tuple[Sequence[str], str]:
        """Return the pool names that apply to this pod, and the field in which they are written."""
        if self._choice.pools:
            return self._choice.pools, f"{_POD} {pod_annotations.POOL}"
        if self._settings.namespaces and self._namespace:
            said = self._said().annotations
            whose = f"annotation of namespace {self._namespace}"
            names = pod_annotations.pool_names(dict(said), whose)
            if names:
                return tuple(dict.fromkeys(names)), f"{whose} {pod_annotations.POOL}"
        return self._config.pool_names, "ipam.pool"

    def _known(self, names: Sequence[str], source: str) -> list[AddressPool]:
        """Return the pools with these names, in the order of the names. Raises ConfigError."""
        pools = {one.name: one for one in self._settings.pools if not one.is_gone}
        for name in names:
            if name not in pools:
                raise ConfigError(
                    f"AddressPool {name} does not exist, or the controller has not accepted it",
                    field=source,
                    value=name,
                    hint="kubectl get addresspools shows the pools and whether they are accepted",
                )
        return [pools[name] for name in names]

    def _left(self, candidates: Sequence[AddressPool], source: str) -> list[AddressPool]:
        """Return the candidates that no filter refuses.

        One pool of each family of the candidates has to be left, otherwise ConfigError or NoBlock
        is raised. A family does not count if its pools were not named and their selectors do not
        select this pod.
        """
        refused = {one.name: self._refusal(one, by_name=self._requests(one)) for one in candidates}
        left = [one for one in candidates if not refused[one.name]]
        served = {one.family for one in left}
        lacking = [
            one
            for one in candidates
            if one.family not in served and (source or not left or self._is_for_pod(one))
        ]
        if lacking or not candidates:
            why = "; ".join(refused[one.name] for one in lacking)
            which = " and ".join(f"IPv{one}" for one in sorted({one.family for one in lacking}))
            message = f"no pool may give this pod an {which} address: {why}"
            if not candidates:
                message = (
                    "every pool serves only pods that name it, and no pool is named for this pod"
                )
            hint = f"annotate the pod: {pod_annotations.POOL}: NAME; {_SEE}"
            if source:
                raise ConfigError(message, field=source, value=None, hint=_SEE)
            raise NoBlock(message, hint=hint if not candidates else _SEE)
        return left

    def _requests(self, pool: AddressPool) -> bool:
        """Return whether the ADD requests an address of this pool."""
        family, first, last = pool.whole()
        return any(one == family and first <= value <= last for one, value in self._addresses)

    def _said(self) -> Namespace:
        """Return the labels and annotations of the pod's namespace."""
        name = self._namespace
        if not (_LABEL.issuperset(name) and len(name) <= _LONGEST_LABEL):
            raise ConfigError(
                f"{name!r:.80} is not a valid namespace name",
                field="K8S_POD_NAMESPACE",
                value=name[:_LONGEST_LABEL],
            )
        self.read = self._services.namespace(self._store, self._config.name, self._settings, name)
        return self.read

    def _is_for_pod(self, pool: AddressPool) -> bool:
        """Return whether the pool's selectors select this pod."""
        return not pool.elsewhere and self._is_of_namespace(pool)

    def _is_of_namespace(self, pool: AddressPool) -> bool:
        if not pool.namespace_selector:
            return True
        if not self._namespace:
            return False
        return pool.namespace_selector.matches(self._said().labels)

    def _refusal(self, pool: AddressPool, *, by_name: bool = False) -> str:
        """Return which filter refuses a pool, and what to type, or "".

        ``by_name`` says that the pool is wanted for a requested address.
        """
        name = pool.name
        if pool.deleting or pool.is_gone:
            return f"pool {name} is being deleted"
        if pool.disabled:
            return (
                f"pool {name} is disabled (kubectl patch addresspool {name} --type merge "
                '-p \'{"spec":{"disabled":false}}\')'
            )
        if pool.elsewhere:
            node = self._settings.node
            return (
                f'the nodeSelector "{pool.node_selector}" of pool {name} does not select node '
                f"{node} (kubectl label node {node} KEY=VALUE)"
            )
        if not self._is_of_namespace(pool):
            text = f'the namespaceSelector "{pool.namespace_selector}" of pool {name}'
            if not self._namespace:
                return f"{text} selects nothing: the request names no namespace"
            return (
                f"{text} does not select namespace {self._namespace} "
                f"(kubectl label namespace {self._namespace} KEY=VALUE)"
            )
        if pool.is_single and not by_name:
            family, first, _ = pool.whole()
            one = format_cidr(family, first, pool.block_length)
            return (
                f"pool {name} assigns addresses on request only, because its blocks are as small "
                f"as {one} (annotate the pod: {pod_annotations.ADDRESSES}: ADDRESS)"
            )
        return ""
