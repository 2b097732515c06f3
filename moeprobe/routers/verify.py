"""Verify one recorded call: the experts received exactly what the router returned."""

from moeprobe.routers.call import RouterCall
from moeprobe.routers.find import Site


def verify(site: Site, call: RouterCall) -> tuple[bool, str]:
    """(verified, reason why not). A router that does not verify is reported as not checked, never guessed."""
    if call.router_calls != 1:
        return False, f"the router fired {call.router_calls} times in one pass through its block"
    if site.experts is None:
        return False, "there is no experts module beside the router to compare with"
    if call.experts_calls == 0:
        return False, "the experts module was never called: a fused kernel seems to go around it"
    if call.given_experts is None or call.given_weights is None:
        return False, "the arguments of the experts module do not show experts and weights"
    if not call.equal:
        return False, "the experts received something else than the router returned"
    return True, ""
