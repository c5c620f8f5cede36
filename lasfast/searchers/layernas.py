"""LayerNAS: a search layer by layer that keeps the best few candidates of each cost bucket."""

from __future__ import annotations

import bisect
import itertools
import math
import random
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lasfast.constraints import Cost, NamedCost, UnknownCostError, describe_function
from lasfast.core.checks import as_int, as_real, check_choice
from lasfast.searchers.base import Searcher
from lasfast.searchers.limits import condition_text, limit, limits_of, unmet
from lasfast.searchers.operators import Result
from lasfast.searchers.reach import Reach
from lasfast.spaces import Architecture, ListedAssignmentSpace, ListedSpace, ProductSpace


@dataclass
class Candidate:
    """A candidate of a layer: options for the layers up to it, and the default option for the rest.

    Attributes:
        beginning: the options.
        value: how good the architecture is.
        untried: the options of the next layer with which it was not yet continued.
        unsure: those of them of which it could not be told whether a completion meets the target.
    """

    beginning: Architecture
    value: float
    untried: list[int] = field(default_factory=list)
    unsure: list[int] = field(default_factory=list)


class LayerNAS(Searcher):
    """Layerwise search within a cost (LayerNAS, Algorithms 1 and 2).

    A candidate of layer l has options for layers 1 to l and the default option elsewhere. Candidates of a
    layer are kept by what they cost (Eq. 4: `buckets` of equal width), the best `replicas` in each bucket
    (appendix F). A step goes on from some candidates of a layer: each gets a few children, which take
    another option at the next layer; after the last layer the search starts again at the first, until no
    candidate has an option left. An option is dropped where no completion can meet the target
    (`lasfast.searchers.reach`). Where that cannot be told, it is kept, and its turn comes once no other is
    left. The default option costs no evaluation: the child is the parent's own network. Nor does any other
    child whose function was evaluated (`SearchSpace.key`). Where the space is a list that lacks a candidate's
    own network, such as a table with missing rows, the one in the list that is most like it stands for it.

    The first step asks for every option of the first layer. `parents=None, children=None` goes on from all
    candidates with all options, and with `replicas=1` that is Algorithm 2, plain dynamic programming.

    On its way the search asks for architectures outside the target, since the default is the dearest option
    (4, size search); `best` is among those within. It finds the optimum where, of two candidates with the
    same cost, the better one stays better whatever follows (Assumption 4.2).

    Args:
        space: a space of independent decisions, such as `ChoiceSpace`, in the order in which they are
            searched.
        cost: the cost of an architecture, any function. In spaces of more than 100,000 architectures, options
            are dropped early only where each layer has a cheapest and a dearest option, whatever the others
            take, as in any sum over layers.
        target: the least and the most that the architecture may cost.
        buckets: into how many buckets a layer's candidates fall, H.
        replicas: how many candidates a bucket keeps, k.
        parents: from how many candidates a step goes on, R; None is all. The paper gives no number; 2 is that
            of its example (appendix I), as for `children`.
        children: how many children each of them gets, T; None is all.
        select: which candidates a step goes on from: "random" ones, as in the paper's example, or the "best",
            which is our addition.
        default: the architecture of default options; None takes the dearest of each layer. Where the space
            lacks that, it takes the architecture with the most neighbours in the space, the dearest of these.
        constraint: says whether an architecture may win; the bounds of a `Constraint` prune as the target
            does.
        phi: gives the bucket of an architecture in place of Eq. 4.
        evaluations: how many architectures to try at most; None goes on to the end.
        seed: the seed of the searcher's own generator.

    Attributes:
        table: for each layer, bucket -> its candidates, the best first.

    Raises:
        TypeError, ValueError: an argument has the wrong type or is out of range; or no architecture meets the
            target and the constraint, as far as that can be told.
        UnknownCostError: one of the costs that are looked at first is not known; those of a space of up to
            100,000 architectures all are.
    """

    space: ProductSpace
    extent = "evaluations"

    def __init__(
        self,
        space: ProductSpace,
        *,
        cost: Cost,
        target: tuple[float, float],
        buckets: int = 100,
        replicas: int = 3,
        parents: int | None = 2,
        children: int | None = 2,
        select: str = "random",
        default: Iterable[int] | None = None,
        constraint: Callable[[Architecture], bool] | None = None,
        phi: Callable[[Architecture], Hashable] | None = None,
        evaluations: int | None = None,
        seed: int = 0,
    ) -> None:
        if not isinstance(space, ProductSpace):
            raise TypeError(f"space must be a ProductSpace such as ChoiceSpace, got {type(space).__name__}")
        if not callable(cost):
            raise TypeError(f"cost must be a function of an architecture, got {cost!r}")
        self.target = _as_target(target)
        self.buckets = as_int("buckets", buckets, minimum=1)
        self.replicas = as_int("replicas", replicas, minimum=1)
        self.parents = None if parents is None else as_int("parents", parents, minimum=1)
        self.children = None if children is None else as_int("children", children, minimum=1)
        check_choice("select", select, ("random", "best"))
        self.select = select
        self.evaluations = None if evaluations is None else as_int("evaluations", evaluations, minimum=1)
        self.most = self.evaluations
        self.seed = as_int("seed", seed, minimum=0)
        self.phi = phi
        super().__init__(space, constraint)
        limits = [limit(cost, *self.target), *limits_of(constraint)]
        self._limits = limits
        self.reach = Reach(space, limits, self.admits)
        self.cost = NamedCost(limits[0][0].cost, self.reach.cost)
        self._given_cost = cost
        self.default = self._default() if default is None else space.validate(default)
        if self.reach.reaches(()) is False:
            raise unmet(f"target must leave architectures of {space}", limits, self.reach.tried(), constraint)
        self._stand_ins: dict[Architecture, Architecture] = {}
        self._extremes = list(map(self._extremes_of, range(len(space.options) + 1)))

    def _default(self) -> Architecture:
        """Return the architecture of the dearest options, or one from which much of the space is near."""
        if not self.space.lacks(self.reach.dearest):
            return self.reach.dearest

        def near(architecture: Architecture) -> tuple[int, float]:
            neighbours = (
                (*architecture[:layer], option, *architecture[layer + 1 :])
                for layer, options in enumerate(self.space.options)
                for option in options
            )
            return sum(not self.space.lacks(one) for one in neighbours), self.reach.cost(architecture)

        return max(self.space.enumerate(), key=near)

    def _extremes_of(self, layer: int) -> tuple[float, float]:
        """Return what a layer's candidates of the cheapest and of the dearest options cost.

        Where the space lacks one of these, it is the least and the greatest cost of a candidate.
        """
        ends = [self._with_default(end[:layer]) for end in (self.reach.cheapest, self.reach.dearest)]
        if not any(map(self.space.lacks, ends)):
            cheapest, dearest = map(self.reach.cost, ends)
            return cheapest, dearest
        costs = [self.reach.cost(self.complete(one)) for one in {one[:layer] for one in self._listed}]
        return min(costs), max(costs)

    def begin(self) -> None:
        """Forget all that was observed."""
        super().begin()
        layers = len(self.space.options)
        self.table: list[dict[Hashable, list[Candidate]]] = [{} for _ in range(layers + 1)]
        self.table[0][0] = [Candidate((), -math.inf, list(self.space.options[0]))]
        self._layer = 0
        self._asked_for: dict[Hashable, list[Architecture]] = {}
        self._evaluated: dict[Hashable, float] = {}

    def propose(self) -> list[Architecture]:
        """Return children of candidates of the current layer, or of the next that has any to evaluate."""
        rng = random.Random(f"{self.seed} {self.step}")
        beginnings = self._next(rng, unsure=False) or self._next(rng, unsure=True)
        self._asked_for = {}
        for beginning in beginnings:
            self._asked_for.setdefault(self._key(beginning), []).append(beginning)
        room = None if self.evaluations is None else self.evaluations - len(self._evaluated)
        return [self.complete(alike[0]) for alike in self._asked_for.values()][:room]

    def learn(self, results: Sequence[Result]) -> None:
        """Put the step's candidates into their buckets."""
        for architecture, value in results:
            key = self.space.key(architecture)
            self._evaluated[key] = value
            for beginning in self._asked_for[key]:
                self._keep(beginning, value)

    def complete(self, beginning: Architecture) -> Architecture:
        """Return the architecture of a candidate, which takes the default option at all further layers.

        Where the space is a list that lacks this, it takes the default option at as many of them as one in
        the list does, the dearest of these.
        """
        architecture = self._with_default(beginning)
        if not self.space.lacks(architecture):
            return architecture
        if beginning not in self._stand_ins:
            self._stand_ins[beginning] = self._nearest(architecture, len(beginning))
        return self._stand_ins[beginning]

    def _with_default(self, beginning: Architecture) -> Architecture:
        return (*beginning, *self.default[len(beginning) :])

    @cached_property
    def _listed(self) -> list[Architecture]:
        """The architectures in dictionary order, where they are a list, and none elsewhere."""
        listed = isinstance(self.space, ListedSpace | ListedAssignmentSpace)
        return sorted(self.space.enumerate()) if listed else []

    def _nearest(self, architecture: Architecture, layer: int) -> Architecture:
        """Return what is listed, begins alike and then differs least; the architecture where nothing does."""

        def likeness(one: Architecture) -> tuple[int, float]:
            same = sum(a == b for a, b in zip(one[layer:], architecture[layer:], strict=True))
            return same, self.reach.cost(one)

        beginning = architecture[:layer]
        first = bisect.bisect_left(self._listed, beginning)
        alike = itertools.takewhile(lambda one: one[:layer] == beginning, self._listed[first:])
        return max(alike, key=likeness, default=architecture)

    def _key(self, beginning: Architecture) -> Hashable:
        """Return what the candidate's architecture shares with those of the same function."""
        return self.space.key(self.complete(beginning))

    def bucket(self, beginning: Architecture) -> Hashable:
        """Return the bucket of a candidate of a layer, by `phi` or Eq. 4; the dearest is in the last one."""
        architecture = self.complete(beginning)
        if self.phi is not None:
            return self.phi(architecture)
        least, most = self._extremes[len(beginning)]
        if most <= least:
            return 0
        share = (self.reach.cost(architecture) - least) / (most - least)
        # A cost may lie outside of what the cheapest and the dearest options of all layers cost together.
        return max(0, min(math.floor(share * self.buckets), self.buckets - 1))

    def may_win(self, architecture: Architecture) -> bool:
        """Return whether an architecture meets the target and the constraint."""
        return self.reach.meets(architecture)

    def _next(self, rng: random.Random, unsure: bool) -> list[Architecture]:
        """Return the beginnings of a step with options that are unsure, or with the others; [] for none."""
        layers = range(len(self.space.options))
        beginnings: list[Architecture] = []
        while not beginnings and any(self._able(layer, unsure) for layer in layers):
            beginnings = self._continue(self._layer, rng, unsure)
            self._layer = (self._layer + 1) % len(layers)
        return beginnings

    def _able(self, layer: int, unsure: bool) -> list[Candidate]:
        """Return the candidates of a layer that have an option left to go on with."""
        candidates = [one for bucket in self.table[layer].values() for one in bucket]
        return [one for one in candidates if (one.unsure if unsure else one.untried)]

    def _continue(self, layer: int, rng: random.Random, unsure: bool) -> list[Architecture]:
        """Return the beginnings, one layer longer, with which candidates of a layer are continued."""
        able = self._able(layer, unsure)
        if layer and self.parents is not None:
            rng.shuffle(able)
            if self.select == "best":
                able.sort(key=lambda candidate: -candidate.value)
            del able[self.parents :]
        children = self.children if layer else None
        return [child for parent in able for child in self._children(parent, children, rng, unsure)]

    def _children(
        self, parent: Candidate, wanted: int | None, rng: random.Random, unsure: bool
    ) -> list[Architecture]:
        """Return up to `wanted` children to evaluate, and drop options without a completion on the way."""
        children: list[Architecture] = []
        options = parent.unsure if unsure else parent.untried
        while options and (wanted is None or len(children) < wanted):
            option = options.pop(rng.randrange(len(options)))
            child = (*parent.beginning, option)
            reaches = unsure or self.reach.reaches(child)
            if reaches is None:
                parent.unsure.append(option)
            elif not reaches or not self._has_bucket(child):
                continue
            elif (value := self._evaluated.get(self._key(child))) is not None:
                self._keep(child, value)
            else:
                children.append(child)
        return children

    def _has_bucket(self, beginning: Architecture) -> bool:
        """Return whether a candidate is in the space, and its cost, by which it is kept, is known."""
        architecture = self.complete(beginning)
        if self.space.lacks(architecture):
            return False
        try:
            self.reach.cost(architecture)
        except UnknownCostError:
            return False
        return True

    def _keep(self, beginning: Architecture, value: float) -> None:
        """Keep a candidate if it is among the best of its bucket; of equal ones, those that came first."""
        layer = len(beginning)
        untried = list(self.space.options[layer]) if layer < len(self.space.options) else []
        bucket = self.table[layer].setdefault(self.bucket(beginning), [])
        bucket.append(Candidate(beginning, value, untried))
        bucket.sort(key=lambda candidate: -candidate.value)
        del bucket[self.replicas :]

    @property
    def ended_early(self) -> str:
        """A sentence that says how many of `evaluations` are left over, and why; "" for none."""
        measured = len(self.results)
        if self.evaluations is None or measured >= self.evaluations or not self.finished:
            return ""
        return (
            f"The search measured {measured} of the {self.evaluations} architectures that it might: no "
            f"candidate has an option left that may meet {condition_text(self._limits, self.constraint)}."
        )

    @property
    def named_costs(self) -> dict[str, Cost]:
        """The costs that the search is bounded in, by name, that of its target first."""
        target = self._given_cost
        own = {target.name: target} if isinstance(target, NamedCost) else {}
        return own | super().named_costs

    def describe(self) -> dict[str, Any]:
        """Return name, hyper-parameters and space, as JSON values."""
        return {
            "name": "layernas",
            "cost": describe_function(self._given_cost),
            "target": [limit if math.isfinite(limit) else None for limit in self.target],
            "buckets": self.buckets,
            "replicas": self.replicas,
            "parents": self.parents,
            "children": self.children,
            "select": self.select,
            "default": list(self.default),
            "constraint": describe_function(self.constraint),
            "phi": describe_function(self.phi),
            "evaluations": self.evaluations,
            "seed": self.seed,
            "space": self.space.describe(),
        }


def _as_target(target: object) -> tuple[float, float]:
    if not isinstance(target, Sequence) or len(target) != 2:
        raise TypeError(f"target must be (low, high), the least and the most to cost, got {target!r}")
    low, high = (as_real("target", limit) for limit in target)
    if not low <= high:
        raise ValueError(f"target must be (low, high) with low <= high, got {target!r}")
    return low, high
