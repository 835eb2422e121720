"""Launches of a compiled program: what runs as a kernel or a library's call, whatever is within it."""

import jax
import jax.numpy as jnp

from ryot_jax.runtime import hlo

TEXT = """HloModule jit_f
%fused_computation (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  %e = f32[4]{0} exponential(%p)
  ROOT %n = f32[4]{0} negate(%e)
}
%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %s = f32[] add(%a, %b)
}
%body (t: (s32[], f32[4])) -> (s32[], f32[4]) {
  %t = (s32[], f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %x = f32[4]{0} get-tuple-element(%t), index=1
  %f = f32[4]{0} fusion(%x), kind=kLoop, calls=%fused_computation
  ROOT %r = (s32[], f32[4]{0}) tuple(%i, %f)
}
%condition (t: (s32[], f32[4])) -> pred[] {
  %t = (s32[], f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %five = s32[] constant(5)
  ROOT %less = pred[] compare(%i, %five), direction=LT
}
%called (y: f32[4]) -> f32[4] {
  %y = f32[4]{0} parameter(0)
  ROOT %copy = f32[4]{0} copy(%y)
}
ENTRY %main (x: f32[4]) -> f32[] {
  %x = f32[4]{0} parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], f32[4]{0}) tuple(%zero, %x)
  %loop = (s32[], f32[4]{0}) while(%start), condition=%condition, body=%body
  %out = f32[4]{0} get-tuple-element(%loop), index=1
  %again = f32[4]{0} call(%out), to_apply=%called
  %library = f32[4]{0} custom-call(%again), custom_call_target="__cublas$gemm"
  %init = f32[] constant(0)
  ROOT %sum = f32[] reduce(%library, %init), dimensions={0}, to_apply=%add
}
"""


def test_each_kernel_and_call_counts_once():
    # The fusion in the loop, the comparison of its condition, the copy in the call, the library's call, the sum.
    assert hlo.launches(TEXT) == 5


def test_of_a_real_program_fused_operations_are_one():
    def launches(function):
        return hlo.launches(jax.jit(function).lower(jnp.ones((64, 64))).compile().as_text())

    one = launches(lambda x: jnp.exp(x) + 1)
    assert one >= 1 and launches(lambda x: jnp.tanh(jnp.exp(x) + 1) * 3) == one
    assert launches(lambda x: (jnp.sort(x, axis=0) @ x).sum()) > one


def test_kernels_in_pallas_are_told_apart_by_their_names():
    def targets(target, op_name):
        call = f'%c = f32[4]{{0}} custom-call(%x), custom_call_target="{target}", metadata={{op_name="{op_name}"}}'
        return hlo.parse(
            f"ENTRY %main (x: f32[4]) -> f32[4] {{\n  %x = f32[4]{{0}} parameter(0)\n  {call}\n}}"
        ).custom_calls

    assert targets("mosaic_gpu_v2", "jit(f)/jvp()/ryot_norm_backward/mpmd_map") == ("mosaic_gpu_v2:ryot_norm_backward",)
    assert targets("mosaic_gpu_v2", "jit(f)/others/mpmd_map") == ("mosaic_gpu_v2",)
    assert targets("ryot_norm_forward", "jit(f)/ryot_norm_forward") == ("ryot_norm_forward",)
