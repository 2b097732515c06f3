"""What clears one finding of being the consequence of another: measurements that say that it stands on its own."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from moeprobe.detectors.cause_kinds import CHOICE, ORDER, WHOLE_SIZE, kind_of
from moeprobe.detectors.choice_worth import choice_worth
from moeprobe.detectors.permuted_experts import PermutedExpertsLimits
from moeprobe.detectors.row_order import row_orders
from moeprobe.detectors.scale_curve import CurveLimits
from moeprobe.findings.evidence import Activations, Evidence, RouterEvidence, ScaleCurve
from moeprobe.findings.finding import Finding

_CLEARLY = 2
"""How many times more the whole model must gain by another size than the broken layers do by theirs."""


@dataclass(frozen=True)
class Scene:
    """All findings, with the evidence that they were made from: what a refutation may look at."""

    evidence: Evidence
    findings: Sequence[Finding]
    order_limits: PermutedExpertsLimits = field(default_factory=PermutedExpertsLimits)
    curve_limits: CurveLimits = field(default_factory=CurveLimits)

    @cached_property
    def depth(self) -> Mapping[str | None, int]:
        """Place of every router, from the embedding on."""
        return {one.router.path: place for place, one in enumerate(self.evidence.routers)}

    @cached_property
    def cleared(self) -> frozenset[str]:
        """Routers whose choice the loss test found worth something."""
        tests = self.evidence.experiments.choice if self.evidence.experiments else []
        return frozenset(t.router for t in tests if choice_worth(t, self.order_limits).verdict == "worth")

    @cached_property
    def tied(self) -> frozenset[str]:
        """Routers whose rows and experts have a tie in the present order, as the weights say."""
        orders = row_orders(self.evidence.routers, self.order_limits)
        return frozenset(path for path, order in orders.items() if order.verdict == "tied")

    @cached_property
    def accused(self) -> frozenset[tuple[str, str | None]]:
        """Detectors with the routers that they accuse of something."""
        return frozenset((one.detector, one.router) for one in self.findings if one.severity != "info")

    def clears(self, one: RouterEvidence) -> bool:
        """Whether the loss test found this router's choice worth something."""
        return one.router.path in self.cleared

    def between(self, root: Finding, found: Finding) -> Sequence[RouterEvidence]:
        """Return the routers between two findings' routers."""
        return self.evidence.routers[self.depth[root.router] + 1 : self.depth[found.router]]

    @cached_property
    def whole_size_stands(self) -> bool:
        """Whether the best size of all routed branches is off by more than the broken layers explain.

        A wrong factor drags every layer along: most sound layers, each tested alone, gain in the same direction, or
        the model as a whole gains far more than the layers that are broken gain by their own best sizes.
        """
        curves = {one.router: one for one in (self.evidence.experiments.scale if self.evidence.experiments else [])}
        whole = curves.pop(None, None)
        if whole is None:
            return False
        suspects = {
            one.router
            for one in self.findings
            if one.router
            and (one.severity == "error" or (one.severity == "warning" and kind_of(one) in (ORDER, CHOICE)))
        }
        sound = [curve for path, curve in curves.items() if path not in suspects]
        along = [curve for curve in sound if self._gains(curve) and (curve.best < 1) == (whole.best < 1)]
        if len(along) * 2 > len(sound):
            return True
        if not suspects <= curves.keys():
            return False
        explained = sum(max(curves[path].gain, 0.0) for path in suspects if math.isfinite(curves[path].gain))
        return whole.gain > _CLEARLY * explained

    def _gains(self, curve: ScaleCurve) -> bool:
        return curve.gain > self.curve_limits.gain_errors * curve.standard_error and not math.isclose(curve.best, 1)


def cleared_between(scene: Scene, root: Finding, found: Finding) -> bool:
    """Whether what the first layer hands on spoils no choice: the loss test clears a layer in between.

    Of neighbours the next layer tells. A choice that the loss alone calls worthless, while the weights say that rows
    and experts belong together, is behind a fault rather than at one.
    """
    if found.router in scene.tied:
        return False
    here = scene.depth[found.router]
    return any(scene.clears(one) for one in scene.between(root, found) or scene.evidence.routers[here + 1 : here + 2])


def cleared_behind_the_boundary(scene: Scene, root: Finding, found: Finding) -> bool:
    """Whether a layer is cleared that lies between this one and the first place that the exchange of layers spoilt."""
    if root.router == found.router or found.router in scene.tied:
        return False
    learned = [scene.depth[one.router.path] for one in scene.evidence.routers if one.router.kind == "top-k"]
    between = scene.evidence.routers[min(learned, default=0) + 1 : scene.depth[found.router]]
    return any(scene.clears(one) for one in between)


def most_layers_cleared(scene: Scene, _root: Finding, found: Finding) -> bool:
    """Whether most other layers' choices are worth something: a wrong size of all of them would spoil all alike."""
    if found.router in scene.tied:
        return False
    tests = scene.evidence.experiments.choice if scene.evidence.experiments else []
    others = [test.router for test in tests if test.router != found.router]
    return sum(path in scene.cleared for path in others) * 2 > len(others)


def finite_between(scene: Scene, root: Finding, found: Finding) -> bool:
    """Whether nothing that is not finite leaves the first layer, or a layer in between sees none of it."""
    first, *others = [scene.evidence.routers[scene.depth[root.router]], *scene.between(root, found)]
    unseen = first.activations is not None and not _not_finite(first.activations)
    return unseen or any(
        shown.logits is not None and not _not_finite(shown) for one in others if (shown := one.activations) is not None
    )


def _not_finite(shown: Activations) -> bool:
    counts = (
        shown.logits.nonfinite if shown.logits else 0,
        shown.weights.nonfinite if shown.weights else 0,
        shown.magnitudes.routed_nonfinite if shown.magnitudes else 0,
    )
    return any(counts)


def silent_between(scene: Scene, root: Finding, found: Finding) -> bool:
    """Whether the same detector has nothing to say of a router in between that is of the same make."""
    router = scene.evidence.routers[scene.depth[found.router]].router
    return any(
        (found.detector, one.router.path) not in scene.accused
        for one in scene.between(root, found)
        if (one.router.module, one.router.kind) == (router.module, router.kind)
        and one.router.verified
        and one.activations is not None
    )


def size_of_its_own(scene: Scene, _root: Finding, found: Finding) -> bool:
    """Whether the size of all routed branches is wrong beyond what the broken layers explain."""
    return kind_of(found) is WHOLE_SIZE and scene.whole_size_stands


def size_of_the_layers(scene: Scene, root: Finding, found: Finding) -> bool:
    """Whether the size of the whole model is itself but a consequence, or most layers are cleared of one."""
    return not scene.whole_size_stands or most_layers_cleared(scene, root, found)
