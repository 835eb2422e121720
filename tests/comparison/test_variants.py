"""Active probes on programs that are really compiled: found when it is on, missed when it is off."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.comparison.variants import Variant, check_active, differing
from ryot_jax.config import get_default
from ryot_jax.kernels import Spec, cpu
from ryot_jax.machine.devices import describe_devices
from ryot_jax.model.config import from_config
from ryot_jax.optimizations import BY_NAME, OPTIMIZATIONS, KernelPlan
from ryot_jax.optimizations.dispatch import STEPS_PER_CALL
from ryot_jax.runtime import hlo
from ryot_jax.runtime.errors import ConfigError
from ryot_jax.training.optimizer import make_optimizer
from ryot_jax.training.parallel import compile_step, stack
from ryot_jax.training.setup import kernel_spec
from ryot_jax.training.state import init_state
from ryot_jax.training.step_programs import step_function

B, T, D, F, V, H = 4, 32, 16, 48, 80, 2
SPEC = Spec(
    platform="cpu",
    n_devices=1,
    compute_dtype="float32",
    rows=B * T,
    d_model=D,
    d_ff=F,
    vocab_size=V,
    seq_len=T,
    n_heads=H,
)
BASELINE = Variant("baseline", KernelPlan())


def _loss_sum(x_ND, w_VD, targets_N):
    log_p_NV = jax.nn.log_softmax(x_ND @ w_VD.T)
    return -jnp.take_along_axis(log_p_NV, targets_N[:, None], 1).sum()


def _chunked_loss_sum(x_ND, w_VD, targets_N):
    @jax.checkpoint
    def body(total, chunk):
        return total + _loss_sum(chunk[0], w_VD, chunk[1]), None

    chunks = (x_ND.reshape(4, -1, D), targets_N.reshape(4, -1))
    return jax.lax.scan(body, jnp.float32(0.0), chunks)[0]


def _attention(x_BTHK):
    scores_BHQS = jnp.einsum("bqhk,bshk->bhqs", x_BTHK, x_BTHK)
    length = scores_BHQS.shape[-1]
    offset = length - scores_BHQS.shape[-2]
    mask = jnp.tril(jnp.ones(scores_BHQS.shape[-2:], bool), offset)
    p_BHQS = jax.nn.softmax(jnp.where(mask, scores_BHQS, -jnp.inf))
    return jnp.einsum("bhqs,bshk->bqhk", p_BHQS, x_BTHK)


def _blocked_attention(x_BTHK):
    def block(start):
        query, keys = x_BTHK[:, start : start + T // 2], x_BTHK[:, : start + T // 2]
        scores = jnp.einsum("bqhk,bshk->bhqs", query, keys)
        mask = jnp.tril(jnp.ones(scores.shape[-2:], bool), start)
        return jnp.einsum("bhqs,bshk->bqhk", jax.nn.softmax(jnp.where(mask, scores, -jnp.inf)), keys)

    return jnp.concatenate([block(0), block(T // 2)], 1)


def _norm(x_ND):
    return x_ND * jax.lax.rsqrt(jnp.mean(jnp.square(x_ND), axis=-1, keepdims=True) + 1e-5)


@jax.custom_vjp
def _norm_with_own_gradient(x_ND):
    return _norm(x_ND)


def _norm_backward(x_ND, dy_ND):
    r_N1 = jax.lax.rsqrt(jnp.mean(jnp.square(x_ND), axis=-1, keepdims=True) + 1e-5)
    y_ND = x_ND * r_N1
    return ((dy_ND - y_ND * jnp.mean(dy_ND * y_ND, axis=-1, keepdims=True)) * r_N1,)


_norm_with_own_gradient.defvjp(lambda x_ND: (_norm(x_ND), x_ND), _norm_backward)


def _dropout(x_ND, key):
    return jnp.where(jax.random.bernoulli(key, 0.9, x_ND.shape), x_ND, 0)


def _hashed_dropout(x_ND, key):
    index_ND = jax.lax.broadcasted_iota(jnp.uint32, x_ND.shape, 0) * D
    index_ND = index_ND + jax.lax.broadcasted_iota(jnp.uint32, x_ND.shape, 1)
    hash_ND = (index_ND ^ jax.random.key_data(key)[0]) * jnp.uint32(0x9E3779B1)
    return jnp.where(hash_ND > 2**28, x_ND, 0)


def _mlp(x_ND, w_DF, w_FD):
    return jax.nn.gelu(x_ND @ w_DF) @ w_FD


def _bf16_mlp(x_ND, w_DF, w_FD):
    def product(x, w):
        x, w = x.astype(jnp.bfloat16), w.astype(jnp.bfloat16)
        return jnp.matmul(x, w, preferred_element_type=jnp.float32)

    return product(jax.nn.gelu(product(x_ND, w_DF)), w_FD)


def _rounded(w):
    return w + jax.lax.stop_gradient(jnp.round(8 * w) / 8 - w)


def _step_text(switched: KernelPlan, rename: str = "step") -> str:
    """HLO text of a compiled gradient step that uses what `switched` says."""
    attention = _attention if switched["attention"] == "reference" else _blocked_attention
    mlp = _mlp if switched["dense"] == "reference" else _bf16_mlp
    head = _loss_sum if switched["linear_cross_entropy"] == "reference" else _chunked_loss_sum
    norm = _norm if switched["norm"] == "reference" else _norm_with_own_gradient
    dropout = _dropout if switched["dropout"] == "reference" else _hashed_dropout

    def step(params, x_BTD, targets_N, key):
        params = params if switched["qat"] == "float" else jax.tree.map(_rounded, params)
        x_BTHK = x_BTD.reshape(B, T, H, D // H)
        x_ND = (x_BTD + attention(x_BTHK).reshape(B, T, D)).reshape(-1, D)
        h_ND = norm(dropout(x_ND, key)).astype(switched["activations"] or "float32")
        y_ND = mlp(x_ND + h_ND.astype(jnp.float32), params["up"], params["down"])
        return head(y_ND, params["out"], targets_N), h_ND  # an output is an array of its own, whatever is fused

    step.__name__ = rename
    gradient = jax.grad(step, (0, 1), has_aux=True)

    def scanned(params, x_BTD, targets_SN, key):
        def one(carry, targets_N):
            params, x_BTD, _ = carry
            gradients, h_ND = gradient(params, x_BTD, targets_N, key)
            return (*jax.tree.map(jnp.subtract, (params, x_BTD), gradients), h_ND), None

        h_ND = jnp.zeros((B * T, D), switched["activations"] or "float32")
        return jax.lax.scan(one, (params, x_BTD, h_ND), targets_SN)[0]

    params = {"up": jnp.ones((D, F)), "down": jnp.ones((F, D)), "out": jnp.ones((V, D))}
    program, targets = gradient, jnp.zeros(B * T, jnp.int32)
    if switched["dispatch"] == "scan":
        program, targets = scanned, jnp.zeros((STEPS_PER_CALL, B * T), jnp.int32)
    arguments = params, jnp.ones((B, T, D)), targets, jax.random.key(0)
    return jax.jit(program).lower(*arguments).compile().as_text()


@pytest.fixture(scope="module")
def baseline_text():
    return _step_text(KernelPlan())


BY_XLA = KernelPlan(
    activations="bfloat16", linear_cross_entropy="xla", attention="xla", dense="xla", norm="xla", dropout="hash",
    qat="round", dispatch="scan",
)  # fmt: skip
SWITCHES = {name: value for name, value in BY_XLA.items() if value != "reference"}


@pytest.mark.parametrize("switches", [{name: value} for name, value in SWITCHES.items()], ids=list(SWITCHES))
def test_a_probe_finds_its_optimization_and_misses_it_when_it_is_off(baseline_text, switches):
    optimized = Variant("optimized", KernelPlan(**switches))
    texts = {"baseline": baseline_text, "optimized": _step_text(optimized.plan)}
    evidence = check_active((BASELINE, optimized), texts, SPEC)["optimized"]
    assert list(evidence) == list(switches) and all(found.active for found in evidence.values())

    # The switch says on, but the program has another optimization in its place.
    (name,) = switches
    other = {"attention": "xla"} if name != "attention" else {"dense": "xla"}
    texts["optimized"] = _step_text(KernelPlan(**other))
    with pytest.raises(ConfigError, match=f"optimizations.{name}.* does not show it"):
        check_active((BASELINE, optimized), texts, SPEC)


def test_all_optimizations_together_are_each_found(baseline_text):
    texts = {"baseline": baseline_text, "optimized": _step_text(BY_XLA)}
    evidence = check_active((BASELINE, Variant("optimized", BY_XLA)), texts, SPEC)["optimized"]
    assert {name: found.active for name, found in evidence.items()} == dict.fromkeys(SWITCHES, True)


@pytest.fixture(scope="module", params=[1, 2], ids=["whole batches", "two microbatches"])
def trained(request):
    """`trained(plan)`: the training step of a small transformer, or the scan over steps, parsed; and its sizes."""
    config = get_default()
    sizes = {"vocab_size": 300, "d_model": 16, "d_ff": 48, "n_layers": 1, "n_heads": 2, "max_len": 32, "dropout": 0.1}
    config.model.update(sizes)
    config.training.update({"batch_size": 64, "seq_len": 32, "accumulation": request.param})
    devices = describe_devices()
    model = from_config(config.model, devices.platform)
    optimizer = make_optimizer(config.training, 800)
    graphdef, state = init_state(model, optimizer, 0)
    batch = {name: np.zeros((64, 32), np.int32) for name in ("inputs", "targets")}

    @functools.cache
    def program(plan):
        steps = STEPS_PER_CALL if plan["dispatch"] == "scan" else 1
        step_fn = step_function(config, model, graphdef, optimizer, plan)
        compiled = compile_step(step_fn, state, batch if steps == 1 else stack([batch] * steps), steps=steps)
        return hlo.parse(compiled.hlo_text())

    return program, kernel_spec(config, model, devices)


def _proofs(program, baseline, spec):
    return {
        (o.name, name): o.implementations[name].probe(program, baseline, spec)
        for o in OPTIMIZATIONS
        for name in o.alternatives
    }


def test_several_steps_a_call_are_found_and_show_nothing_else(trained):
    program, spec = trained
    found = _proofs(program(KernelPlan(dispatch="scan")), program(KernelPlan()), spec)
    assert [key for key, evidence in found.items() if evidence.active] == [("dispatch", "scan")]
    assert found["dispatch", "scan"].text == "1 loops of 5 turns over s32[5,...] token ids, 0 in the baseline"


def test_within_the_loop_of_several_steps_every_optimization_is_found(trained):
    program, spec = trained
    found = _proofs(program(BY_XLA), program(KernelPlan()), spec)
    assert {key for key, evidence in found.items() if evidence.active} == set(SWITCHES.items())


@pytest.mark.skipif(cpu.unavailable_reason() is not None, reason=str(cpu.unavailable_reason()))
def test_within_the_loop_of_several_steps_the_cpp_kernels_are_found(trained):
    program, spec = trained
    plan = KernelPlan(
        linear_cross_entropy="cpu", attention="cpu", dense="cpu", norm="cpu", embedding="cpu", dispatch="scan"
    )
    found = _proofs(program(plan), program(KernelPlan()), spec)
    wanted = {key for key in plan.items() if key[1] in ("cpu", "scan")}
    assert wanted <= {key for key, evidence in found.items() if evidence.active}


def test_every_field_of_a_plan_is_an_optimization_with_a_probe_for_every_implementation():
    assert [o.name for o in OPTIMIZATIONS] == list(KernelPlan())
    for optimization in OPTIMIZATIONS:
        for name, implementation in optimization.implementations.items():
            assert (implementation.probe is None) == (name == optimization.reference)
        assert optimization.switch == f"optimizations.{optimization.name}"


def test_a_switch_that_changes_nothing_is_an_error(baseline_text):
    # Another function name must not hide that it is the same program.
    texts = {"baseline": baseline_text, "optimized": _step_text(KernelPlan(), rename="fast_step")}
    assert texts["baseline"] != texts["optimized"]
    with pytest.raises(ConfigError, match=r"same program although optimizations\.dense=xla"):
        check_active((BASELINE, Variant("optimized", KernelPlan(dense="xla"))), texts, SPEC)


def test_an_arm_with_nothing_on_is_an_error(baseline_text):
    texts = {"baseline": baseline_text, "optimized": baseline_text}
    with pytest.raises(ConfigError, match="no optimization on"):
        check_active((BASELINE, Variant("optimized", KernelPlan())), texts, SPEC)


def test_an_implementation_without_a_probe_is_an_error(baseline_text):
    optimized = Variant("optimized", KernelPlan(dense="magic"))
    texts = {"baseline": baseline_text, "optimized": _step_text(KernelPlan(dense="xla"))}
    with pytest.raises(ConfigError, match="dense=magic: there is no probe"):
        check_active((BASELINE, optimized), texts, SPEC)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("linear_cross_entropy", "ryot_linear_cross_entropy_gradients"),
        ("attention", "ryot_attention_forward"),
        ("attention", "ryot_packed_attention_backward"),
        ("dense", "ryot_dense_forward"),
        ("norm", "ryot_norm_backward"),
        ("embedding", "ryot_embedding_backward"),
    ],
)
def test_cpu_kernels_are_found_by_their_custom_call(baseline_text, name, target):
    baseline = hlo.parse(baseline_text)
    line = f'  %call.1 = f32[4]{{0}} custom-call(%x), custom_call_target="{target}"\n'
    entry = baseline_text.index("\n", baseline_text.index("ENTRY")) + 1
    ours = hlo.parse(baseline_text[:entry] + line + baseline_text[entry:])
    for optimization in OPTIMIZATIONS:
        if "cpu" in optimization.implementations:
            probe = optimization.implementations["cpu"].probe
            assert probe(ours, baseline, SPEC).active == (optimization.name == name)
            assert not probe(baseline, baseline, SPEC).active
            assert not probe(ours, ours, SPEC).active


@pytest.mark.skipif(cpu.unavailable_reason() is not None, reason=str(cpu.unavailable_reason()))
@pytest.mark.skipif(not cpu.handlers(), reason="the C++ kernels were not built")
def test_the_handlers_are_those_that_the_probes_look_for():
    of_decoding = {"ryot_pack_weights", "ryot_decode_step", "ryot_speculation_round"}  # no part of a training step
    assert of_decoding < set(cpu.handlers())
    found = [hlo.Program((), (), (handler,), "") for handler in cpu.handlers() if handler not in of_decoding]
    probes = [o.implementations["cpu"].probe for o in OPTIMIZATIONS if "cpu" in o.implementations]
    for program in found:
        assert sum(probe(program, hlo.Program((), (), (), ""), SPEC).active for probe in probes) == 1


def test_a_vocabulary_as_wide_as_the_mlp_still_needs_fewer_such_arrays():
    logits = hlo.Array("f32", (B * T, F))
    probe = BY_NAME["linear_cross_entropy"].implementations["xla"].probe
    spec = dataclasses.replace(SPEC, vocab_size=F)

    def program(count):
        return hlo.Program((logits,) * count, (), (), "")

    assert probe(program(2), program(5), spec).active
    assert not probe(program(5), program(5), spec).active
    assert not probe(program(2), program(5), dataclasses.replace(spec, rows=B * T * 2)).active


def test_products_of_8_bit_floats_are_found_by_the_dtypes_of_their_operands():
    probe = BY_NAME["dense"].implementations["fp8"].probe

    def program(*dtypes):
        return hlo.Program((), tuple((hlo.Array(x, (B * T, D)), hlo.Array(w, (F, D))) for x, w in dtypes), (), "")

    narrow, wide = program(("f8e4m3fn", "f8e4m3fn"), ("f8e5m2", "f8e4m3fn")), program(("bf16", "bf16"))
    assert probe(narrow, wide, SPEC).active
    assert probe(narrow, wide, SPEC).text == "2 f8 x f8 products with an MLP weight, 0 in the baseline"
    assert not probe(wide, wide, SPEC).active and not probe(narrow, narrow, SPEC).active
    assert not probe(program(("bf16", "f8e4m3fn")), wide, SPEC).active  # a weight that is stored in 8 bits
    assert not probe(narrow, wide, dataclasses.replace(SPEC, d_ff=F + 1)).active


def test_differing_names_only_what_differs():
    changed = differing(BASELINE, Variant("optimized", KernelPlan(attention="xla")))
    assert [o.name for o in changed] == ["attention"]


def test_parse_reads_loops_and_what_is_made_within_them():
    text = """HloModule m
%body (carry: (s32[], f32[4], f32[5,4])) -> (s32[], f32[4], f32[5,4]) {
  %carry = (s32[], f32[4]{0}, f32[5,4]{1,0}) parameter(0)
  %x = f32[4]{0} get-tuple-element(%carry), index=1
  %y = f32[4]{0} negate(%x)
  ROOT %t = (s32[], f32[4]{0}, f32[5,4]{1,0}) tuple(%i, %y, %xs)
}
ENTRY %main (a: (s32[], f32[4], f32[5,4])) -> (s32[], f32[4], f32[5,4]) {
  %a = (s32[], f32[4]{0}, f32[5,4]{1,0}) parameter(0)
  ROOT %w = (s32[], f32[4]{0}, /*index=2*/f32[5,4]{1,0}) while(%a), condition=%condition, body=%body, TURNS
}
"""
    known = text.replace("TURNS", 'backend_config={"known_init_step":{"init":"0"},"known_trip_count":{"n":"5"}}')
    carried = (hlo.Array("s32", ()), hlo.Array("f32", (4,)), hlo.Array("f32", (5, 4)))
    assert hlo.parse(known).loops == (hlo.Loop(5, carried),)
    assert hlo.parse(text.replace(", TURNS", "")).loops == (hlo.Loop(None, carried),)
    assert hlo.parse(known).arrays == (hlo.Array("f32", (4,)),)
    assert hlo.parse(known).fingerprint != hlo.parse(known.replace('"5"', '"4"')).fingerprint


def test_parse_reads_arrays_dots_and_calls_and_refuses_other_text():
    text = """HloModule m
%fused (p: f32[2,3], q: bf16[3,4]) -> f32[2,4] {
  %p = f32[2,3]{1,0} parameter(0)
  %q = bf16[3,4]{1,0} parameter(1)
  ROOT %d = f32[2,4]{1,0} dot(%p, %q), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
ENTRY %main (a: f32[2,3], b: bf16[3,4]) -> (f32[2,4], s32[7]) {
  %a = f32[2,3]{1,0} parameter(0)
  %b = bf16[3,4]{1,0} parameter(1)
  %f = f32[2,4]{1,0} fusion(%a, %b), kind=kCustom, calls=%fused, metadata={op_name="x"}
  %c = (f32[5]{0}, s32[7]{0}) custom-call(%f), custom_call_target="target", api_version=1
  %g = s32[7]{0} get-tuple-element(%c), index=1
  ROOT %t = (f32[2,4]{1,0}, s32[7]{0}) tuple(%f, %g)
}
"""
    program = hlo.parse(text)
    assert [str(array) for array in program.arrays] == ["f32[2,4]", "f32[5]", "s32[7]"]
    assert ("dot", hlo.Array("f32", (2, 4))) in program.operations, "what is within a fusion, too"
    assert [(str(a), str(b)) for a, b in program.dots] == [("f32[2,3]", "bf16[3,4]")]
    assert program.custom_calls == ("target",)
    renamed = text.replace("%f ", "%g.7 ").replace("%f,", "%g.7,").replace("%f)", "%g.7)").replace('"x"', '"y"')
    assert hlo.parse(renamed).fingerprint == program.fingerprint
    assert hlo.parse(text.replace("index=1", "index=0")).fingerprint != program.fingerprint
    with pytest.raises(ValueError, match="no HLO instruction"):
        hlo.parse("module @jit_f { stablehlo.add }")


def test_a_promise_is_that_of_the_implementation():
    dense = BY_NAME["dense"]
    assert dense.promise(KernelPlan(dense="cpu")) == "allclose"
    assert dense.promise(KernelPlan(dense="xla")) == "statistical"  # bfloat16 products in a float32 model
    assert all(o.promise(KernelPlan()) == "bitwise" for o in OPTIMIZATIONS)
    promised = {i.equivalence for o in OPTIMIZATIONS for name, i in o.implementations.items() if name != o.reference}
    assert promised == {"allclose", "statistical"}, "none but a reference has the same numbers"
