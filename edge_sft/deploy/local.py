"""Deploying on this machine: verify, install into the spare place, prove, flip. The old slot serves until the flip."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import edge_sft
from edge_sft import durable
from edge_sft import policy as policies
from edge_sft import profile as profiles
from edge_sft.bundle.keys import PublicKey
from edge_sft.bundle.manifest import POLICY
from edge_sft.bundle.reading import VerifiedBundle, open_verified
from edge_sft.deploy import judging, proving
from edge_sft.deploy.candidates import measured_with
from edge_sft.deploy.judging import Measured
from edge_sft.deploy.prove import Request
from edge_sft.deploy.proving import Outcome
from edge_sft.engines.protocol import EngineInfo, builds
from edge_sft.errors import BundleRefused, DeviceError, UserError
from edge_sft.policy import AnyPolicy
from edge_sft.prediction import rfc3339
from edge_sft.profile import DeviceProfile, VariantName
from edge_sft.progress import Progress, Silent
from edge_sft.slots import proof as proofs
from edge_sft.slots.predictor import read_policy
from edge_sft.slots.proof import PROOF, SITE_POLICY, Proof
from edge_sft.slots.store import Slot, SlotStore

_SPARE_BYTES = 16 << 20  # proof, policy, the folder itself; and never the last byte of a device's disk


@dataclass(frozen=True)
class _Rule:
    """The policy that will be active. ``site`` holds its file's bytes when it is not the bundle's own."""

    policy: AnyPolicy
    site: bytes | None


def deploy(
    bundle: Path,
    root: Path,
    *,
    pipeline: str = "main",
    profile: DeviceProfile,
    trusted_keys: Sequence[PublicKey],
    policy: Path | None = None,
    bundle_policy: bool = False,
    progress: Progress | None = None,
    timeout_s: float = 120.0,
) -> Proof:
    """Install a bundle, prove it on this machine and let it serve.

    Args:
        bundle: The .edge file.
        root: The device's folder.
        pipeline: Whose slots.
        profile: What this machine offers and allows.
        trusted_keys: Keys that may have signed the bundle.
        policy: A policy of the site's own to become active together with the bundle.
        bundle_policy: Make the bundle's own policy active even where the site gave one before, or the labels
            change; by default a site's policy stays active as long as it fits.
        progress: Watched by people.
        timeout_s: For the proof; more where the profile's budget lets a model be slower than that.

    Returns:
        The proof; that of the serving slot when exactly this was deployed before (nothing is then changed).

    Raises:
        BundleRefused: The bundle must not run here, in words; the slot that served goes on serving.
        UserError: No such file, a profile for another processor, or another deploy at work.
        DeviceError: The disk is full or refuses, or the engine is missing.
    """
    watch = progress or Silent()
    profiles.check_runs_on(profile, platform.machine())
    watch.start("Verifying", 1)
    verified = open_verified(bundle, trusted_keys)
    watch.advance()
    store = SlotStore(root, pipeline)
    with store.lock():
        serving = store.repair()
        rule = _active_policy(verified, serving, policy, bundle_policy=bundle_policy)
        variants = _permitted(verified, profile)
        if serving is not None and (known := _same(serving, verified, profile, rule)):
            if _still_built(serving, known, watch):
                return known
        return _installed(store, verified, _Order(profile, rule, variants, timeout_s), watch)


@dataclass(frozen=True)
class _Order:
    """What is to be proved, and how long that may take."""

    profile: DeviceProfile
    rule: _Rule
    variants: tuple[VariantName, ...]
    timeout_s: float


def _installed(store: SlotStore, verified: VerifiedBundle, order: _Order, watch: Progress) -> Proof:
    """Unpack into the spare place, prove there, flip. Raises what `deploy` does; nothing is left behind then."""
    watch.start("Installing", 1)
    _require_room(store.directory, verified)
    with store.staging() as folder:
        verified.extract_to(folder)
        if order.rule.site is not None:
            durable.write_bytes(folder / SITE_POLICY, order.rule.site)
        watch.advance()
        request = Request(slot=folder, profile=order.profile, policy=order.rule.policy, variants=order.variants)
        outcomes = _built(verified, request, watch)
        watch.start(f"Proving {', '.join(order.variants)} on this machine", 1)
        proof = _prove(verified, request, order.rule, outcomes, order.timeout_s)
        durable.write_text(folder / PROOF, proof.model_dump_json(indent=2) + "\n")
        store.commit(folder)
        watch.advance()
    return proof


def _active_policy(verified: VerifiedBundle, serving: Slot | None, given: Path | None, *, bundle_policy: bool) -> _Rule:
    """Decide which policy will be active, and refuse one for another task."""
    task, source = verified.manifest.task, str(verified.path)
    own = policies.from_json(verified.read(POLICY), source=f"{source}, {POLICY}")
    policies.check_fits(own, task, source=f"{source}, {POLICY}")
    if given is not None:
        rule = _given_policy(given)
        policies.check_fits(rule, task, source=str(given))
        return _Rule(rule, given.read_bytes())
    if serving is None or bundle_policy:
        return _Rule(own, None)
    active = read_policy(serving.policy_path)
    try:
        policies.check_fits(active, task, source="the active policy")
    except BundleRefused as error:
        raise BundleRefused(
            source,
            f"does another task than the line's active policy: it {error.fact}",
            "Give --policy FILE made for this model, or --bundle-policy to take the bundle's own.",
        ) from error
    is_site = serving.policy_path.name == SITE_POLICY
    return _Rule(active, serving.policy_path.read_bytes()) if is_site else _Rule(own, None)


def _given_policy(path: Path) -> AnyPolicy:
    try:
        return policies.load(path)
    except OSError as error:
        raise UserError(str(path), f"cannot be read ({error.strerror or error})", "Check --policy.") from error


def _permitted(verified: VerifiedBundle, profile: DeviceProfile) -> tuple[VariantName, ...]:
    manifest = verified.manifest
    clash = {PROOF, SITE_POLICY} & {entry.name for entry in manifest.files}
    if clash:
        raise BundleRefused(str(verified.path), f"holds {sorted(clash)}, which only a device writes", "Build it again.")
    held = [entry.variant for entry in manifest.variants]
    both = tuple(variant for variant in profile.variants if variant in held)
    if not both:
        raise BundleRefused(
            str(verified.path),
            f"holds {', '.join(held)}; profile '{profile.name}' permits {', '.join(profile.variants)}",
            "Export a variant that the profile permits.",
        )
    return both


def _same(serving: Slot, verified: VerifiedBundle, profile: DeviceProfile, rule: _Rule) -> Proof | None:
    """Return the serving slot's proof when it proves exactly what is to be deployed."""
    if serving.digest != verified.digest:
        return None
    try:
        proof = proofs.load(serving.path)
    except BundleRefused:
        return None  # it served without a readable proof: prove it anew
    origin = "bundle" if rule.site is None else "site"
    same = (proof.profile, proof.policy_version, proof.policy_origin) == (profile, rule.policy.version, origin)
    return proof if same else None


def _require_room(directory: Path, verified: VerifiedBundle) -> None:
    needed = sum(entry.size_bytes for entry in verified.manifest.files) + _SPARE_BYTES
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise DeviceError(
            str(directory),
            f"has {free / 1e6:.0f} MB free, installing needs {needed / 1e6:.0f} MB: the disk is full",
            "Free some space and deploy again; the old model goes on serving.",
        )


def _built(verified: VerifiedBundle, request: Request, watch: Progress) -> dict[VariantName, Outcome]:
    """Have every variant's engine in the device's cache; empty for engines that are not built.

    Raises:
        BundleRefused: One cannot be built and the profile does not let the next variant take its place. A variant
            that is slow or inaccurate is passed over; one whose engine fails is a device that is not as its profile
            says, and to go on with FP32 in silence is what people then find out months later.
    """
    outcomes: dict[VariantName, Outcome] = {}
    if not builds(request.profile):
        return outcomes
    for variant in request.variants:
        watch.start(f"Building the engine of {variant} for this machine", 100)
        outcomes[variant] = proving.build(request, variant, _Percent(watch))
        if outcomes[variant].engine is None and not request.profile.fall_back:
            raise BundleRefused(
                str(verified.path),
                f"has no engine of {variant} on this machine: {outcomes[variant].trouble}",
                f"What served before goes on. Take {variant} out of the profile '{request.profile.name}', or set "
                "fall_back = true in it to pass it over.",
            )
    return outcomes


def _still_built(serving: Slot, proof: Proof, watch: Progress) -> bool:
    """Tell whether the engine that was proved is still the one that would run: after a new driver it is not."""
    if not builds(proof.profile):
        return True
    request = Request(slot=serving.path, profile=proof.profile, policy=read_policy(serving.policy_path), variants=())
    watch.start(f"Looking whether the engine of {proof.chosen} still fits this machine", 100)
    engine = proving.build(request, proof.chosen, _Percent(watch)).engine
    return engine is not None and engine.plan == "cached"


class _Percent:
    """What a build tells, as a bar of 100 units."""

    def __init__(self, watch: Progress) -> None:
        self._watch = watch
        self._done = 0

    def __call__(self, text: str, share: float | None) -> None:
        now = self._done if share is None else max(self._done, int(100 * share))
        self._watch.advance(now - self._done, text)
        self._done = now


def _longest_s(profile: DeviceProfile, variants: tuple[VariantName, ...]) -> float:
    """Return how long a proof takes of variants that just keep the budget: some hundred decisions of each."""
    return len(variants) * 100 * profile.budgets.latency_p95_ms / 1000


def _prove(
    verified: VerifiedBundle, request: Request, rule: _Rule, outcomes: dict[VariantName, Outcome], timeout_s: float
) -> Proof:
    profile, wanted = request.profile, request.variants
    unbuilt = {variant: outcome.trouble for variant, outcome in outcomes.items() if outcome.engine is None}
    left = tuple(variant for variant in wanted if variant not in unbuilt)
    longest_s = max(timeout_s, _longest_s(profile, left))
    measured = proving.measure(request.model_copy(update={"variants": left}), timeout_s=longest_s)
    found = {item.variant: _with_build(item, outcomes.get(item.variant)) for item in measured.items}
    found |= {variant: Measured(variant=variant, trouble=trouble) for variant, trouble in unbuilt.items()}
    results = judging.judge([found[variant] for variant in wanted], profile.budgets, rule.policy.deadline_ms)
    chosen = judging.choose(results)
    if chosen is None or measured.engine is None:
        reasons = "; ".join(f"{item.variant}: {item.reason}" for item in results)
        raise BundleRefused(
            str(verified.path),
            f"failed its proof on this machine ({reasons})",
            "What served before goes on serving.",
        )
    manifest, engine = verified.manifest, measured.engine
    return Proof(
        digest=verified.digest,
        name=manifest.name,
        version=manifest.version,
        proved_at=rfc3339(datetime.now(timezone.utc)),
        made_by=f"edge-sft {edge_sft.__version__}",
        profile=profile,
        machine=platform.machine(),
        engine=engine.engine,
        provider=engine.provider,
        library_version=engine.library_version,
        threads=engine.threads,
        gpu=engine.gpu,
        compute_capability=engine.compute_capability,
        driver=engine.driver,
        notes=_notes(outcomes, engine),
        frame=measured_with(manifest.task.modality, manifest.task.inputs),
        policy_origin="bundle" if rule.site is None else "site",
        policy_version=rule.policy.version,
        variants=results,
        chosen=chosen,
    )


def _with_build(item: Measured, outcome: Outcome | None) -> Measured:
    """Add how its engine came about."""
    if outcome is None or outcome.engine is None:
        return item
    return item.model_copy(update={"plan": outcome.engine.plan, "build_s": outcome.engine.build_s})


def _notes(outcomes: dict[VariantName, Outcome], engine: EngineInfo) -> tuple[str, ...]:
    """Gather what engines said: why one was built anew, that CUDA graphs failed."""
    said = [
        f"{variant}: {line}"
        for variant, outcome in outcomes.items()
        for line in (outcome.engine.notes if outcome.engine else (f"passed over: {outcome.trouble}",))
    ]
    return (*said, *engine.notes)
