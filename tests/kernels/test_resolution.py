"""The choice of implementations: wishes are met or refused, never forgotten."""

import dataclasses
import re

import pytest

from ryot_jax.kernels import Spec, cpu
from ryot_jax.kernels.gpu import pallas
from ryot_jax.kernels.resolution import Choice, measurable, supported, tunable
from ryot_jax.machine import processor
from ryot_jax.optimizations import BY_NAME, KernelPlan, exclusions, resolve, resolve_to_rounding
from ryot_jax.runtime.errors import ConfigError

SPEC = Spec(
    platform="cpu", n_devices=1, compute_dtype="float32", rows=1024, d_model=32, d_ff=64, vocab_size=100,
    seq_len=16, n_heads=2,
)  # fmt: skip
GPU = dataclasses.replace(SPEC, platform="gpu", compute_dtype="bfloat16", compute_capability="9.0", d_model=128)
FIELDS = list(BY_NAME)
ALL_AUTO = dict.fromkeys(FIELDS, "auto")
CPP = dict.fromkeys(("linear_cross_entropy", "attention", "dense", "norm", "embedding", "optimizer"), "cpu")
NO_AVX512_BF16 = "the C++ kernels need a processor with AVX512-BF16 for bfloat16"
NOT_BUILT = "the C++ kernels were not built"


@pytest.fixture
def machine(monkeypatch):
    """`machine(built, bf16, rate)`: pretend that the C++ kernels are there or not, and take bfloat16 or not.

    `rate` is that of bfloat16 products, those of float32 being 1.
    """

    def pretend(built=True, bf16=True, rate=2.0):
        monkeypatch.setattr(cpu, "product_rate", lambda dtype: 1e9 * (rate if dtype == "bfloat16" else 1.0))

        def reason(dtype="float32"):
            return NOT_BUILT if not built else NO_AVX512_BF16 if dtype == "bfloat16" and not bf16 else None

        monkeypatch.setattr(cpu, "unavailable_reason", reason)
        flags = frozenset({"avx2"} | ({"avx512_bf16"} if bf16 else set()))
        monkeypatch.setattr(processor, "cpu_flags", lambda: flags)

    return pretend


def test_off_is_the_reference_everywhere():
    assert resolve(dict.fromkeys(FIELDS, "off"), spec=SPEC).plan == KernelPlan()
    assert resolve({}, spec=SPEC).plan == KernelPlan()
    references = {"", "reference", "float", "step"}
    assert KernelPlan()["activations"] == "" and set(KernelPlan().values()) == references


def test_auto_takes_the_cpp_kernels_and_bfloat16_where_they_are(machine):
    machine()
    resolution = resolve(ALL_AUTO, spec=SPEC)
    assert resolution.plan == KernelPlan(**CPP, activations="bfloat16", dispatch="scan")
    assert resolution.reasons["dense"] == "auto: first in order that this machine supports"


@pytest.mark.parametrize("measured", [False, True])
def test_auto_takes_bfloat16_that_multiplies_no_faster_only_if_it_was_measured(machine, measured):
    machine(rate=1.1)

    def lookup(op, spec):
        return Choice("bfloat16", "measured: for a test") if op == "activations" and measured else None

    resolution = resolve(ALL_AUTO, spec=SPEC, lookup=lookup)
    assert resolution.plan["activations"] == ("bfloat16" if measured else "")
    assert measured or "no faster on this processor (1 beside 1 GFLOP/s a thread)" in resolution.reasons["activations"]


def test_auto_without_bfloat16_takes_the_cpp_kernels_in_float32(machine):
    machine(bf16=False)
    resolution = resolve(ALL_AUTO, spec=SPEC)
    assert resolution.plan == KernelPlan(**CPP, dispatch="scan")
    assert f"not bfloat16: it pays with C++ kernels alone, and {NO_AVX512_BF16}" in resolution.reasons["activations"]


@pytest.mark.parametrize("bf16", [True, False])
def test_auto_without_a_compiler_takes_xla_and_says_why(machine, bf16):
    machine(built=False, bf16=bf16)
    resolution = resolve(ALL_AUTO, spec=SPEC)
    # bfloat16 products where the CPU has them, in a float32 model: what XLA stores in bfloat16 it computes in float32.
    assert resolution.plan == KernelPlan(
        linear_cross_entropy="xla", attention="xla", dense="xla" if bf16 else "reference", dispatch="scan"
    )
    assert f"not cpu: {NOT_BUILT}" in resolution.reasons["attention"]
    assert f"not cpu: {NOT_BUILT}" == resolution.reasons["embedding"]
    assert NOT_BUILT in resolution.reasons["activations"]


@pytest.mark.parametrize("op", ["linear_cross_entropy", "attention", "dense", "norm"])
def test_bfloat16_between_the_ops_is_left_where_an_op_would_not_take_it_fast(machine, op):
    machine()
    resolution = resolve(ALL_AUTO | {op: "off"}, spec=SPEC)
    assert resolution.plan["activations"] == "" and f"optimizations.{op} = 'off'" in resolution.reasons["activations"]
    # Asked for by name it is had all the same.
    assert resolve(ALL_AUTO | {op: "off", "activations": "bfloat16"}, spec=SPEC).plan["activations"] == "bfloat16"


@pytest.mark.parametrize("op", ["linear_cross_entropy", "attention", "dense", "norm", "embedding"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"platform": "gpu"}, "not on gpu"),
        ({"n_devices": 8}, "8 devices"),
    ],
)
def test_cpp_kernels_are_refused_for_work_that_they_cannot_take(machine, op, change, reason):
    machine()
    spec = dataclasses.replace(SPEC, **change)
    assert "cpu" in supported(BY_NAME[op], SPEC) and "cpu" not in supported(BY_NAME[op], spec)
    assert resolve({op: "auto"}, spec=spec).plan != KernelPlan(**{op: "cpu"})
    with pytest.raises(ConfigError, match=f"optimizations.{op} = 'cpu'.*{reason}"):
        resolve({op: "cpu"}, spec=spec)


def test_the_dtype_between_the_ops_decides_whether_the_cpp_kernels_take_them(machine):
    machine(bf16=False)
    wanted = {"activations": "bfloat16", "dense": "cpu"}
    with pytest.raises(ConfigError, match=f"optimizations.dense = 'cpu': {re.escape(NO_AVX512_BF16)}"):
        resolve(wanted, spec=SPEC)
    machine(bf16=True)
    assert resolve(wanted, spec=SPEC).plan == KernelPlan(activations="bfloat16", dense="cpu")


@pytest.mark.skipif(cpu.unavailable_reason() is not None, reason=str(cpu.unavailable_reason()))
def test_no_dtype_but_float32_and_bfloat16_goes_into_cpp_but_weights_do():
    spec = dataclasses.replace(SPEC, compute_dtype="float16")
    for op in ("linear_cross_entropy", "attention", "dense", "norm"):
        with pytest.raises(ConfigError, match="float16"):
            resolve({op: "cpu"}, spec=spec)
    # The embedding and its gradient are float32 whatever the model computes in.
    assert resolve({"embedding": "cpu"}, spec=spec).plan["embedding"] == "cpu"


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"compute_dtype": "bfloat16"}, "computes in bfloat16 already"), ({"platform": "gpu"}, "on gpu")],
)
def test_bf16_products_are_for_float32_models_on_cpus_alone(machine, change, reason):
    machine()
    with pytest.raises(ConfigError, match=reason):
        resolve({"dense": "xla"}, spec=dataclasses.replace(SPEC, **change))


def test_bf16_products_are_refused_where_the_processor_has_none(machine):
    machine(built=False, bf16=False)
    assert "no AVX512-BF16" in resolve({"dense": "auto"}, spec=SPEC).reasons["dense"]
    with pytest.raises(ConfigError, match="no AVX512-BF16"):
        resolve({"dense": "xla"}, spec=SPEC)


def test_bfloat16_between_the_ops_is_refused_where_it_is_the_models_dtype():
    spec = dataclasses.replace(SPEC, compute_dtype="bfloat16")
    with pytest.raises(ConfigError, match="computes in bfloat16 already"):
        resolve({"activations": "bfloat16"}, spec=spec)
    assert resolve({"activations": "auto"}, spec=spec).plan["activations"] == ""


def test_a_hashed_mask_needs_dropout():
    resolution = resolve({"dropout": "auto"}, spec=SPEC)
    assert resolution.plan["dropout"] == "reference" and "the model has no dropout" in resolution.reasons["dropout"]
    with pytest.raises(ConfigError, match="the model has no dropout"):
        resolve({"dropout": "hash"}, spec=SPEC)
    with_dropout = dataclasses.replace(SPEC, dropout=0.1)
    assert resolve({"dropout": "hash"}, spec=with_dropout).plan["dropout"] == "hash"
    # With other masks than the baseline's, one pair of arms would compare two seeds.
    assert resolve({"dropout": "auto"}, spec=with_dropout).plan["dropout"] == "reference"


def test_rounded_weights_are_had_by_name_alone():
    left = resolve({"qat": "auto"}, spec=SPEC, lookup=lambda op, spec: Choice("round", "measured"))
    assert left.plan == KernelPlan() and left.plan["qat"] == "float"
    # The loss of other weights is another loss: a faster or slower step at it would say nothing.
    assert left.reasons["qat"].startswith("not round: it changes what is trained")
    assert resolve({"qat": "round"}, spec=SPEC).plan == KernelPlan(qat="round")
    assert resolve({"qat": "round"}, spec=SPEC).reasons["qat"] == "asked for"
    with pytest.raises(ConfigError, match=r"optimizations\.qat = 'int4': not an implementation.*'round'"):
        resolve({"qat": "int4"}, spec=SPEC)


@pytest.mark.parametrize(("built", "bf16"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_plan_to_rounding_has_the_reference_where_more_than_rounding_would_differ(machine, built, bf16):
    machine(built=built, bf16=bf16)
    spec = dataclasses.replace(SPEC, dropout=0.1)
    wanted = {**ALL_AUTO, "dropout": "hash", "qat": "round"}
    assert "statistical" in {o.promise(resolve(wanted, spec=spec).plan) for o in BY_NAME.values()}
    plan = resolve_to_rounding(wanted, spec=spec).plan
    assert all(o.promise(plan) != "statistical" for o in BY_NAME.values())
    assert plan == KernelPlan(
        **(CPP if built else {"linear_cross_entropy": "xla", "attention": "xla"}), dispatch="scan"
    )


def test_what_a_config_excludes_is_told_by_the_optimization_itself():
    def found(optimizer="adamw", parallelism="jit", block_steps=100):
        training = {"optimizer": optimizer, "parallelism": parallelism}
        return exclusions({"training": training, "comparison": {"block_steps": block_steps}})

    assert found() == {} == found(block_steps=10)
    assert found(optimizer="lion") == {"optimizer": "the kernel takes steps of adamw, not of lion"}
    assert found(parallelism="pmap") == found(parallelism="pmap", block_steps=2)
    assert found(parallelism="pmap") == {"dispatch": "pmap takes one step a call"}
    assert found(block_steps=9)["dispatch"].startswith(
        "half a block of comparison.block_steps = 9 steps is over before"
    )


def test_several_steps_a_call_are_what_auto_takes_on_a_cpu_and_elsewhere_where_asked_for(machine):
    machine(built=False)
    on_cpu = resolve({"dispatch": "auto"}, spec=SPEC)
    assert on_cpu.lines()[-1] == "dispatch: scan (auto: first in order that this machine supports)"
    eight = dataclasses.replace(SPEC, n_devices=8)
    assert resolve({"dispatch": "auto"}, spec=eight).plan["dispatch"] == "scan"
    on_gpu = dataclasses.replace(SPEC, platform="gpu")
    left = resolve({"dispatch": "auto"}, spec=on_gpu)
    assert left.lines()[-1] == "dispatch: step (not scan: it was measured on CPUs, not on gpu)"
    assert resolve({"dispatch": "scan"}, spec=on_gpu).plan["dispatch"] == "scan"
    assert resolve({"dispatch": "off"}, spec=SPEC).lines()[-1] == "dispatch: step (off)"


def test_several_steps_a_call_are_refused_where_a_call_can_take_one_alone():
    spec = dataclasses.replace(SPEC, refusals={"dispatch": "pmap takes one step a call"})
    assert supported(BY_NAME["dispatch"], SPEC) == ["step", "scan"] and supported(BY_NAME["dispatch"], spec) == ["step"]
    resolution = resolve({"dispatch": "auto"}, spec=spec)
    assert resolution.lines()[-1] == "dispatch: step (not scan: pmap takes one step a call)"
    with pytest.raises(ConfigError, match=r"optimizations\.dispatch = 'scan': pmap takes one step a call; use 'auto'"):
        resolve({"dispatch": "scan"}, spec=spec)


def test_a_named_implementation_is_taken_or_refused_by_name():
    assert resolve({"attention": "xla"}, spec=SPEC).plan["attention"] == "xla"
    with pytest.raises(ConfigError, match=r"optimizations\.attention = 'flash'.*'cpu', 'cudnn', 'mosaic', 'xla'"):
        resolve({"attention": "flash"}, spec=SPEC)
    with pytest.raises(ConfigError, match=r"optimizations\.convolution: no such op"):
        resolve({"convolution": "auto"}, spec=SPEC)


def test_the_scanned_loss_is_refused_where_its_rows_are_spread_over_devices():
    spec = dataclasses.replace(SPEC, n_devices=8)
    resolution = resolve({"linear_cross_entropy": "auto"}, spec=spec)
    assert resolution.plan["linear_cross_entropy"] == "reference"
    assert "scan over rows" in resolution.reasons["linear_cross_entropy"]
    with pytest.raises(ConfigError, match="scan over rows"):
        resolve({"linear_cross_entropy": "xla"}, spec=spec)


def test_what_was_measured_goes_before_the_static_order_and_after_an_explicit_wish(machine):
    machine()
    asked = []

    def lookup(op, spec):
        asked.append((op, spec.dtype))
        return Choice("xla", "measured: xla 3.0 times reference") if op == "attention" else None

    resolution = resolve(ALL_AUTO | {"norm": "off"}, spec=SPEC, lookup=lookup)
    assert resolution.plan["attention"] == "xla" and resolution.plan["dense"] == "cpu"
    assert resolution.reasons["attention"] == "measured: xla 3.0 times reference"
    assert [op for op, _ in asked] == [op for op in FIELDS if op != "norm"]
    assert resolve({"attention": "cpu"}, spec=SPEC, lookup=lookup).plan["attention"] == "cpu"
    assert resolve({"attention": "off"}, spec=SPEC, lookup=lookup).plan["attention"] == "reference"

    asked.clear()
    resolve(ALL_AUTO, spec=SPEC, lookup=lookup)
    assert asked == [("activations", "float32"), *((op, "bfloat16") for op in FIELDS[1:])]


def test_a_measurement_overrules_a_doubt_about_speed(machine):
    machine(built=False)
    unmeasured = resolve({"norm": "auto"}, spec=SPEC)
    assert unmeasured.plan["norm"] == "reference" and "not xla: no faster than" in unmeasured.reasons["norm"]
    measured = resolve({"norm": "auto"}, spec=SPEC, lookup=lambda op, spec: Choice("xla", "measured: 2.0 times"))
    assert measured.plan["norm"] == "xla" and measured.reasons["norm"] == "measured: 2.0 times"


@pytest.mark.parametrize(
    ("op", "name", "spec"),
    [
        ("dropout", "hash", dataclasses.replace(SPEC, dropout=0.1)),  # other masks
        ("dense", "fp8", dataclasses.replace(GPU, d_model=512, d_ff=512, rows=4096)),  # other numbers
        ("attention", "mosaic", GPU),  # wrong numbers, of this compiler
        ("qat", "round", SPEC),  # another loss
        ("activations", "bfloat16", SPEC),  # measured with other wishes
    ],
)
def test_no_measurement_overrules_a_drawback(machine, monkeypatch, op, name, spec):
    machine(built=False)
    monkeypatch.setattr(pallas, "cuda_version", lambda: 12_080)
    assert resolve({op: name}, spec=spec).plan[op] == name, "it could take the work"
    left = resolve({op: "auto"}, spec=spec, lookup=lambda op, spec: Choice(name, "measured"))
    assert left.plan[op] != name and f"not {name}: " in left.reasons[op]
    assert name not in measurable(BY_NAME[op], spec, {op: "auto"})


@pytest.mark.parametrize("op", [name for name in FIELDS if name not in ("dropout", "qat", "activations")])
def test_all_that_speed_decides_among_is_measured_but_what_has_a_drawback(machine, op):
    machine()
    assert measurable(BY_NAME[op], SPEC, ALL_AUTO) == tunable(BY_NAME[op], SPEC)


@pytest.mark.parametrize("winner", ["cpu", "magic"])
def test_what_was_measured_and_is_no_longer_there_is_passed_over(machine, winner):
    machine(built=False)
    resolution = resolve({"attention": "auto"}, spec=SPEC, lookup=lambda op, spec: Choice(winner, "measured"))
    assert resolution.plan["attention"] == "xla" and NOT_BUILT in resolution.reasons["attention"]


def test_the_reference_may_have_been_measured_to_be_the_fastest(machine):
    machine()
    winners = {"attention": "reference", "activations": ""}
    plan_of = resolve(ALL_AUTO, spec=SPEC, lookup=lambda op, spec: Choice(winners.get(op, "cpu"), "measured")).plan
    assert plan_of["attention"] == "reference" and plan_of["activations"] == "" and plan_of["dense"] == "cpu"


def test_a_resolution_says_each_choice_in_a_line_of_its_own(machine):
    machine(built=False, bf16=False)
    lines = resolve({"attention": "xla"}, spec=SPEC).lines()
    assert lines[0] == "activations: as the model (off)"
    assert lines[2] == "attention: xla (asked for)" and len(lines) == len(FIELDS)


def test_xla_linear_cross_entropy_refuses_what_its_first_chunk_holds(machine):
    """Its logits would be whole, as the reference's are: the switch would do nothing."""
    machine(built=False)
    few = dataclasses.replace(SPEC, rows=512)
    assert "xla" in supported(BY_NAME["linear_cross_entropy"], SPEC) and "xla" not in supported(
        BY_NAME["linear_cross_entropy"], few
    )
    with pytest.raises(ConfigError, match="its first chunk of 512 rows is the whole of 512"):
        resolve({"linear_cross_entropy": "xla"}, spec=few)


@pytest.mark.parametrize(
    ("capability", "attention", "linear_cross_entropy", "norm"),
    [
        ("7.5", "xla", "xla", "reference"),
        ("8.0", "cudnn", "triton", "triton"),
        ("8.9", "cudnn", "triton", "triton"),
        ("9.0", "mosaic", "mosaic", "triton"),
        ("10.0", "cudnn", "triton", "triton"),
        ("12.0", "cudnn", "triton", "triton"),
    ],
)
def test_auto_takes_on_a_gpu_what_its_generation_has(capability, attention, linear_cross_entropy, norm):
    plan = resolve(ALL_AUTO, spec=dataclasses.replace(GPU, compute_capability=capability)).plan
    ours = {"attention": attention, "linear_cross_entropy": linear_cross_entropy, "norm": norm}
    assert plan == KernelPlan(**ours)


@pytest.mark.parametrize(
    ("op", "name", "change", "reason"),
    [
        ("linear_cross_entropy", "mosaic", {"compute_capability": "8.9"}, "compute capability 9.0 or more"),
        ("linear_cross_entropy", "mosaic", {"compute_capability": "10.0"}, "written for compute capability 9"),
        ("linear_cross_entropy", "mosaic", {"compute_dtype": "float32"}, "bfloat16 and float16, not float32"),
        ("linear_cross_entropy", "mosaic", {"n_devices": 2}, "cannot be partitioned over 2 devices"),
        ("linear_cross_entropy", "triton", {"compute_capability": "7.5"}, "compute capability 8.0 or more"),
        ("linear_cross_entropy", "triton", {"platform": "cpu"}, "run on NVIDIA GPUs, not on cpu"),
        ("attention", "mosaic", {"d_model": 96}, "heads of 64 or 128, not of 48"),
        ("norm", "mosaic", {"d_model": 200}, "a multiple of 128 up to 2048"),
        ("norm", "triton", {"d_model": 16_384}, "d_model up to 8192, not 16384"),
        ("norm", "triton", {"compute_capability": ""}, "the compute capability of this one is not known"),
    ],
)
def test_where_a_kernel_of_a_gpu_cannot_run_the_reason_is_said(op, name, change, reason):
    spec = dataclasses.replace(GPU, **change)
    assert name not in supported(BY_NAME[op], spec)
    with pytest.raises(ConfigError, match=re.escape(reason)):
        resolve({op: name}, spec=spec)


@pytest.mark.parametrize(
    ("version", "attention"), [(12_080, "cudnn"), (12_090, "cudnn"), (12_091, "mosaic"), (13_000, "mosaic")]
)
def test_auto_leaves_causal_masks_to_cudnn_where_ptxas_gets_them_wrong(monkeypatch, version, attention):
    monkeypatch.setattr(pallas, "cuda_version", lambda: version)
    assert resolve({"attention": "auto"}, spec=GPU).plan["attention"] == attention
    assert resolve({"attention": "mosaic"}, spec=GPU).plan["attention"] == "mosaic", "a wish is met"


def test_without_pallas_for_triton_the_other_kernels_stay(monkeypatch):
    monkeypatch.setattr(pallas.importlib.util, "find_spec", lambda name: None)
    spec = dataclasses.replace(GPU, compute_capability="8.0")
    resolution = resolve(ALL_AUTO, spec=spec)
    assert resolution.plan["norm"] == "reference" and "no Pallas for Triton" in resolution.reasons["norm"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"compute_capability": "7.5"}, "needs compute capability 8.0 (Ampere), this device has 7.5"),
        ({"compute_capability": "gfx90a"}, "needs compute capability 8.0 (Ampere), this device has gfx90a"),
        ({"compute_capability": ""}, "this device has none"),
        ({"compute_dtype": "float32"}, "takes bfloat16 and float16, not float32"),
        ({"d_model": 24}, "heads of multiples of 8 up to 256 here, not of 12"),
        ({"seq_len": 15, "n_heads": 4}, "differentiates even lengths, not seq_len = 15"),
        ({"d_model": 512, "compute_capability": "8.9"}, "heads of multiples of 8 up to 128 here, not of 256"),
        ({"platform": "tpu"}, "cuDNN runs on NVIDIA GPUs, not on tpu"),
    ],
)
def test_where_cudnn_cannot_run_the_reason_is_said(change, reason):
    spec = dataclasses.replace(GPU, **change)
    resolution = resolve({"attention": "auto"}, spec=spec)
    assert resolution.plan["attention"] == "xla" and reason in resolution.reasons["attention"]
    with pytest.raises(ConfigError, match=re.escape(reason)):
        resolve({"attention": "cudnn"}, spec=spec)
