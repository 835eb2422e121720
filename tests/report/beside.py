"""What a run may hold beside its comparison: a compression, decoding, trainings by schedule and recipe."""

from ryot_jax.comparison.schema import (
    CompressedGroup,
    CompressionResult,
    DecodingResult,
    ExecutedSteps,
    Measured,
    StepKind,
    TimeToLoss,
    TradeOffPoint,
    Training,
)


def measured(estimate: float, half: float):
    return Measured(estimate=estimate, ci95=[estimate - half, estimate + half])


def pareto(method: str, sizes: range, factor: float):
    """Files of 2, 3, ... bits a parameter, whose rise falls with the square of the step."""
    return [
        TradeOffPoint(
            method=method,
            setting=f"{bits} bits",
            bytes=134_000 * bits + 9000,
            perplexity_change=measured(factor * 4.0**-bits, 0.12 * factor * 4.0**-bits),
            sequences=512,
        )
        for bits in sizes
    ]


def compression():
    """With a compressed checkpoint whose interval reaches over its budget, and files of other methods beside it."""
    sizes = {"embedding": (262_144, 3.25), "mlp": (589_824, 2.25), "small arrays": (219_904, 2.2)}
    return CompressionResult(
        arm="optimized",
        step=800,
        budget="perplexity<=1%",
        kept=False,
        file="compressed/best.ryot",
        parameters=1_071_872,
        training_tokens=3_276_800,
        bytes=349_757,
        float_bytes=4_287_488,
        ratio=4_287_488 / 349_757,
        bits_per_parameter=8 * 349_757 / 1_071_872,
        lossless_bytes=3_800_000,
        lossless_coder="lzma",
        entropy_bytes=336_436.3,
        order0_entropy_bytes=359_626.2,
        codes_bytes=336_664,
        side_bytes=12_237,
        plain_bytes=0,
        header_bytes=856,
        overhead=1.0007,
        sequences=2462,
        float_loss=3.4555,
        loss=3.4652,
        loss_change=measured(0.0097, 0.0006),
        perplexity_change=Measured(estimate=0.0097, ci95=[0.0092, 0.0103]),
        kl=measured(0.0051, 0.0002),
        agreement=measured(0.934, 0.003),
        tokens_per_second=2900.0,
        float_tokens_per_second=3000.0,
        speed=Measured(estimate=0.97, ci95=[0.94, 1.0]),
        seconds=55.0,
        arrays=[
            CompressedGroup(name=name, parameters=n, bits_per_parameter=bits, rise=n * 9e-9, expected_rise=n * 1e-8)
            for name, (n, bits) in sizes.items()
        ],
        pareto=[
            *pareto("ours", range(2, 7), 0.3),
            *pareto("GPTQ, equal bits", range(2, 7), 0.8),
            *pareto("rounding to nearest", range(2, 9), 12.0),
            TradeOffPoint(
                method="lossless",
                setting="lzma",
                bytes=3_800_000,
                perplexity_change=measured(0.0, 0.0),
                sequences=512,
            ),
        ],
    )


def decoding():
    """With what generating with the best checkpoint came to."""
    return DecodingResult(
        arm="optimized",
        step=800,
        engine="cpu",
        dtype="bfloat16",
        prompts=32,
        prompt_tokens=32,
        new_tokens=96,
        draft="lookup",
        tokens_per_second=29_876.5,
        speculative_tokens_per_second=55_432.1,
        speed=Measured(estimate=1.8432, ci95=[1.7123, 1.9841]),
        acceptance=0.6035,
        tokens_per_step=2.8358,
        identical=True,
        identical_prompts=32,
        batch32_tokens_per_second=91_234.5,
        seconds=4.231,
    )


def time_to_loss():
    """With trainings by a schedule, a recipe and both; the recipe's ends above the baseline's loss."""

    def training(name: str, recipe: list[str], executed: list[tuple[int, ...]], seconds: float, change: float):
        steps = [
            ExecutedSteps(first_step=a, end_step=b, batch_size=batch, seq_len=length, depth=depth, rate=1.0)
            for a, b, batch, length, depth in executed
        ]
        return Training(
            name=name,
            recipe=recipe,
            phases="50% of B x T/2",
            learning_rate=0.02 if recipe else 0.003,
            steps=executed[-1][1],
            tokens=2_000_000,
            tokens_share=0.6103,
            programs=len(executed),
            unplanned_compilations=0,
            checks_failed=0,
            seconds=seconds,
            compile_seconds=4.5,
            compiled_from_cache=False,
            loss=3.4567 + change,
            loss_difference=Measured(estimate=change, ci95=[change - 0.01, change + 0.01]),
            reached=None if abs(change) < 0.01 else change < 0,
            kernels_seconds=36.0,
            share_of_kernels=seconds / 36.0,
            share_of_baseline=seconds / 131.0,
            share_of_baseline_with_compile=(seconds + 4.5) / 133.0,
            executed=steps,
            kinds=[
                StepKind(
                    **{key: getattr(step, key) for key in ("batch_size", "seq_len", "depth")},
                    steps=step.end_step - step.first_step,
                    seconds=seconds / len(steps),
                    compile_seconds=4.5 / len(steps),
                    saved_seconds=10.0 if step.depth else None,
                    repaid=True if step.depth else None,
                )
                for step in steps
            ],
        )

    parts = ["muon", "rotary"]
    return TimeToLoss(
        target_loss=3.4567,
        trainings=[
            training("schedule", [], [(0, 1000, 32, 32, 1), (1000, 1140, 32, 128, 0)], 14.5, -0.052),
            training("recipe", parts, [(0, 185, 32, 128, 0)], 10.5, 0.043),
            training("both", parts, [(0, 200, 32, 64, 1), (200, 260, 32, 128, 0)], 7.0, 0.004),
        ],
        seconds=61.2,
    )
