"""Oracles of losses on features: by hand, by slow loops in float64, by identities."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.errors import ConfigError, ShapeError
from tutelage.losses import (
    CWD,
    LOSSES,
    OFA,
    ActivationBoundaries,
    AttentionTransfer,
    AuxiliaryHeads,
    CRDMemory,
    FitNets,
    OFALogit,
    ReviewKD,
    SimKD,
    VkD,
)
from tutelage.losses.attention import attention_map, flow, selectivity_distance
from tutelage.losses.contrastive import noise_contrast, pick_out
from tutelage.losses.divergences import cross_entropy, kl_divergence
from tutelage.losses.factor import factor_distance
from tutelage.losses.features import over_counted
from tutelage.losses.hint import boundary_distance, gaussian_surprise
from tutelage.losses.projected import log_distance
from tutelage.losses.relational import (
    angles,
    correlations,
    neighbour_divergence,
    relative_distances,
    similarity_distance,
)
from tutelage.losses.review import pyramid_distance
from tutelage.objective import DryRun, Loss
from tutelage.types import Batch, Outputs


def noise(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def batch_of(rows: int, labels: Tensor | None = None) -> Batch:
    ids = torch.arange(rows)
    return Batch(torch.zeros(rows, 1), labels, ids, ids)


def call(
    loss: Loss, student: dict[str, Tensor], teacher: dict[str, Tensor] | None = None
) -> Tensor:
    """A loss, built in double precision, on features by layer."""
    rows = len(next(iter(student.values())))
    ours = Outputs(noise(rows, 3, seed=8), student)
    theirs = Outputs(noise(rows, 3, seed=9), student if teacher is None else teacher)
    torch.manual_seed(0)
    loss.setup(DryRun(ours, theirs, num_samples=rows))
    loss.double()
    return loss(ours, theirs, batch_of(rows, torch.arange(rows) % 3)).detach()


# Hints


def test_fitnets_is_the_mean_square_of_what_its_adapter_leaves():
    student, teacher = noise(4, 3, 5, 5), noise(4, 6, 5, 5, seed=1)
    loss = FitNets("a")
    found = call(loss, {"a": student}, {"a": teacher})
    layer = loss.adapter.layers[0]
    fitted = F.conv2d(student, layer.weight[:, :, None, None], layer.bias)
    torch.testing.assert_close(found, (fitted - teacher).square().mean().detach())


def test_a_larger_map_is_pooled_to_the_smaller():
    student, teacher = noise(4, 3, 8, 8), noise(4, 3, 4, 4, seed=1)
    halves = student.view(4, 3, 4, 2, 4, 2).mean(dim=(3, 5))
    for pair in ((student, teacher), (teacher, student)):
        found = call(AttentionTransfer("a"), {"a": pair[0]}, {"a": pair[1]})
        torch.testing.assert_close(
            found, call(AttentionTransfer("a"), {"a": halves}, {"a": teacher})
        )


def test_the_surprise_is_that_of_a_normal_distribution_without_its_constant():
    mean, wanted, variance = noise(4, 3, 2, 2), noise(4, 3, 2, 2, seed=1), torch.tensor([1.0, 2, 3])
    spread = variance.double().view(3, 1, 1).sqrt()
    normal = torch.distributions.Normal(mean, spread).log_prob(wanted).mean()
    found = gaussian_surprise(mean, wanted, variance.double())
    assert float(found) == pytest.approx(-float(normal) - 0.5 * math.log(2 * math.pi))


def test_boundaries_by_hand():
    # sides -, +, +: hinges max(0, 1 + 0.5), max(0, 1 - 3), max(0, 1 - 0.25)
    student = torch.tensor([[0.5, 3.0, 0.25]], dtype=torch.float64)
    teacher = torch.tensor([[-2.0, 0.1, 9.0]], dtype=torch.float64)
    assert float(boundary_distance(student, teacher)) == pytest.approx((1.5**2 + 0.75**2) / 3)


def test_boundaries_are_met_by_the_right_signs_alone():
    teacher = noise(5, 7)
    assert float(boundary_distance(2 * teacher.sign(), teacher)) == 0
    assert float(boundary_distance(-2 * teacher.sign(), teacher)) == 9


def test_factors_do_not_depend_on_scale():
    student, teacher = noise(4, 3, 2, 2), noise(4, 3, 2, 2, seed=1)
    wanted = torch.stack(
        [(s / s.norm() - t / t.norm()).abs().mean() for s, t in zip(student, teacher, strict=True)]
    )
    torch.testing.assert_close(factor_distance(5 * student, 0.1 * teacher), wanted.mean())


# Attention


def test_attention_is_the_energy_over_channels_at_unit_length():
    feature = noise(2, 3, 2, 2)
    energy = torch.stack([sum(c.abs() ** 2 for c in sample).flatten() for sample in feature])
    torch.testing.assert_close(attention_map(feature), energy / energy.norm(dim=1, keepdim=True))


def test_attention_ignores_channels_order_sign_and_scale():
    student, teacher = noise(4, 3, 5, 5), noise(4, 6, 5, 5, seed=1)
    changed = -3 * student[:, [2, 0, 1]]
    wanted = call(AttentionTransfer("a"), {"a": student}, {"a": teacher})
    torch.testing.assert_close(call(AttentionTransfer("a"), {"a": changed}, {"a": teacher}), wanted)


def test_selectivity_is_the_discrepancy_of_channels():
    student, teacher = noise(2, 3, 2, 2), noise(2, 4, 2, 2, seed=1)

    def mean_kernel(one: Tensor, other: Tensor) -> float:
        pairs = [(a.flatten(), b.flatten()) for a in one for b in other]
        values = [(a @ b / a.norm() / b.norm()).item() ** 2 for a, b in pairs]
        return sum(values) / len(values)

    wanted = [
        mean_kernel(s, s) + mean_kernel(t, t) - 2 * mean_kernel(s, t)
        for s, t in zip(student, teacher, strict=True)
    ]
    found = float(selectivity_distance(student, teacher))
    assert found == pytest.approx(sum(wanted) / 2)
    assert float(selectivity_distance(student, student[:, [1, 2, 0]])) == pytest.approx(
        0, abs=1e-15
    )


def test_flow_by_a_slow_loop():
    bottom, top = noise(2, 3, 4, 4), noise(2, 2, 4, 4, seed=1)
    found = flow(bottom, top)
    for sample in range(2):
        for i in range(3):
            for j in range(2):
                wanted = (bottom[sample, i] * top[sample, j]).sum() / 16
                assert float(found[sample, i, j]) == pytest.approx(float(wanted))


def test_channels_are_softened_over_places():
    student, teacher = noise(2, 3, 2, 2), noise(2, 3, 2, 2, seed=1)
    rows = student.view(6, 4), teacher.view(6, 4)
    found = call(CWD("a", temperature=2), {"a": student}, {"a": teacher})
    torch.testing.assert_close(found, kl_divergence(*rows, temperature=2))


# Relations


def test_distances_are_relative_to_their_mean():
    rows = torch.tensor([[0.0, 0], [3, 4], [0, 8]], dtype=torch.float64)
    distances = torch.tensor([[0.0, 5, 8], [5, 0, 5], [8, 5, 0]], dtype=torch.float64)
    torch.testing.assert_close(relative_distances(rows), distances / 6)
    torch.testing.assert_close(relative_distances(7 * rows + 100), distances / 6)


def test_angles_by_a_slow_loop():
    rows = noise(4, 3)
    found = angles(rows)
    for i in range(4):
        for j in range(4):
            for k in range(4):
                one, other = rows[j] - rows[i], rows[k] - rows[i]
                is_degenerate = i in (j, k)
                wanted = 0.0 if is_degenerate else one @ other / one.norm() / other.norm()
                assert float(found[i, j, k]) == pytest.approx(float(wanted), abs=1e-12)


@pytest.mark.parametrize("title", ["rkd_distance", "rkd_angle"])
def test_turning_moving_and_scaling_a_student_changes_no_relation(title):
    rows, teacher = noise(6, 4), noise(6, 5, seed=1)
    turn = torch.linalg.qr(noise(4, 4, seed=2)).Q
    wanted = call(LOSSES[title]("a"), {"a": rows}, {"a": teacher})
    found = call(LOSSES[title]("a"), {"a": 3 * rows @ turn + 5}, {"a": teacher})
    torch.testing.assert_close(found, wanted)
    assert float(wanted) > 1e-4


def test_similarities_by_hand():
    student = torch.tensor([[1.0, 0], [0, 1]], dtype=torch.float64)  # Gram: identity
    teacher = torch.tensor([[1.0], [1]], dtype=torch.float64)  # Gram: ones, rows (1, 1) / sqrt 2
    half = math.sqrt(0.5)
    wanted = (2 * (1 - half) ** 2 + 2 * half**2) / 4
    assert float(similarity_distance(student, teacher)) == pytest.approx(wanted)


def test_correlations_approach_the_gaussian_kernel():
    rows = noise(5, 3)
    unit = rows / rows.norm(dim=1, keepdim=True)
    exact = torch.tensor(
        [[math.exp(-0.4 * float((a - b).square().sum())) for b in unit] for a in unit]
    ).double()
    assert (correlations(rows, 0.4, 12) - exact).abs().max() < 1e-7
    by_hand = math.exp(-0.8) * (1 + 0.8 * unit @ unit.T + 0.32 * (unit @ unit.T) ** 2)
    torch.testing.assert_close(correlations(rows, 0.4, 2), by_hand)


def test_neighbours_by_a_slow_loop():
    student, teacher = noise(4, 3), noise(4, 5, seed=1)

    def chances(rows: Tensor) -> list[list[float]]:
        cosines = [[(float(a @ b / a.norm() / b.norm()) + 1) / 2 for b in rows] for a in rows]
        return [[value / sum(row) for value in row] for row in cosines]

    pairs = zip(chances(student), chances(teacher), strict=True)
    wanted = sum(p * math.log(p / q) for qs, ps in pairs for q, p in zip(qs, ps, strict=True)) / 4
    assert float(neighbour_divergence(student, teacher)) == pytest.approx(wanted, rel=1e-5)


RELATIONAL = ["similarity_preserving", "correlation_congruence", "rkd_distance", "rkd_angle", "pkt"]


@pytest.mark.parametrize("title", [*RELATIONAL, "crd", "srd"])
def test_one_counted_sample_has_no_relations(title):
    student, teacher = noise(3, 4).requires_grad_(), noise(3, 5, seed=1)
    loss = LOSSES[title]("a")
    ours, theirs = Outputs(noise(3, 2), {"a": student}), Outputs(noise(3, 2), {"a": teacher})
    loss.setup(DryRun(ours, theirs))
    ids = torch.arange(3)
    mask = torch.tensor([False, True, False])
    found = loss.double()(ours, theirs, Batch(torch.zeros(3, 1), None, ids, ids, mask))
    found.backward()
    assert float(found.detach()) == 0
    assert (student.grad == 0).all()


@pytest.mark.parametrize("title", [*RELATIONAL, "crd", "srd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("which", ["all equal", "two equal", "zeros"])
def test_equal_rows_give_finite_numbers(title, dtype, which):
    rows = {"all equal": [1, 1, 1, 1], "two equal": [0, 1, 2, 2], "zeros": [0, 0, 0, 0]}[which]
    scale = 0.0 if which == "zeros" else 30.0
    student = (scale * noise(3, 6)[rows]).to(dtype).requires_grad_()
    teacher = noise(4, 5, seed=1).to(dtype)
    for first, second in ((student, teacher), (student, student.detach())):
        loss = LOSSES[title]("a")
        ours, theirs = Outputs(first, {"a": first}), Outputs(second, {"a": second})
        loss.setup(DryRun(ours, theirs))
        student.grad = None
        found = loss.to(dtype)(ours, theirs, batch_of(4))
        found.backward()
        assert found.isfinite()
        assert student.grad.isfinite().all()


# Contrast


def test_picking_out_is_a_cross_entropy_in_both_directions():
    student, teacher = F.normalize(noise(5, 3)), F.normalize(noise(5, 3, seed=1))
    scores = student @ teacher.T / 0.5
    own = torch.arange(5)
    wanted = cross_entropy(scores, own) + cross_entropy(scores.T, own)
    torch.testing.assert_close(pick_out(student, teacher, 0.5), wanted)


def test_the_estimate_by_hand():
    # c = K / N = 0.5; densities 2 of the true pair, 1 and 0.25 of the false ones
    positive = torch.tensor([2.0]).log()
    negative = torch.tensor([[1.0, 0.25]]).log()
    wanted = -math.log(2 / 2.5) - math.log(0.5 / 1.5) - math.log(0.5 / 0.75)
    assert float(noise_contrast(positive, negative, 4)) == pytest.approx(wanted)
    counts = torch.tensor([[True, False]])
    wanted += math.log(0.5 / 0.75)
    assert float(noise_contrast(positive, negative, 4, counts)) == pytest.approx(wanted)


def test_a_memory_is_a_running_mean_of_unit_vectors_and_still_in_eval_mode():
    loss = CRDMemory("a", width=4, negatives=6, momentum=0.25)
    student, teacher = {"a": noise(3, 5)}, {"a": noise(3, 6, seed=1)}
    ours, theirs = Outputs(noise(3, 2), student), Outputs(noise(3, 2), teacher)
    loss.setup(DryRun(ours, theirs, num_samples=9))
    loss.double()
    ids = torch.tensor([7, 2, 5])
    batch = Batch(torch.zeros(3, 1), torch.tensor([1, 0, 1]), ids, ids)
    before = loss.memory.clone()
    loss.eval()(ours, theirs, batch)
    assert torch.equal(loss.memory, before)
    loss.train()(ours, theirs, batch)
    fresh = torch.stack(loss.embeddings(student["a"], teacher["a"])).detach()
    wanted = before.clone()
    wanted[:, ids] = F.normalize(0.25 * before[:, ids] + 0.75 * fresh, dim=-1)
    torch.testing.assert_close(loss.memory, wanted)
    assert loss.labels.tolist() == [-1, -1, 0, -1, -1, 1, -1, 1, -1]


# Projectors


def test_the_log_distance_ignores_each_dimensions_scale():
    student, teacher = 10 * noise(6, 4), 10 * noise(6, 4, seed=1)

    def standard(rows: Tensor) -> Tensor:
        return (rows - rows.mean(0)) / (rows.var(0, correction=0) + 1e-4).sqrt()

    wanted = (standard(student) - standard(teacher)).pow(4).sum().log() - math.log(6)
    torch.testing.assert_close(log_distance(student, teacher), wanted)
    scaled = student * torch.tensor([1.0, 5, 20, 3]).double() + 4
    torch.testing.assert_close(log_distance(scaled, teacher), wanted, rtol=1e-5, atol=0)


def test_an_orthogonal_projector_keeps_distances_before_and_after_training():
    loss = VkD("a")
    student, teacher = {"a": noise(6, 4)}, {"a": noise(6, 9, seed=1)}
    call(loss, student, teacher)
    optimizer = torch.optim.SGD(loss.parameters(), lr=1.0)
    for _ in range(5):
        loss(Outputs(noise(6, 2), student), Outputs(noise(6, 2), teacher), batch_of(6)).backward()
        optimizer.step()
    projected = loss.projector(student["a"])
    torch.testing.assert_close(torch.cdist(projected, projected), torch.cdist(*[student["a"]] * 2))
    wanted = F.layer_norm(teacher["a"], (9,))
    torch.testing.assert_close(
        call(loss, student, teacher),
        F.smooth_l1_loss(loss.projector(student["a"]), wanted).detach(),
    )


# Review


def test_the_pyramid_by_hand_on_a_map_of_two_by_two():
    gap = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]], dtype=torch.float64)
    wanted = (84 / 4 + 0.5 * 16) / 1.5  # full size, then pooled to 1 with half the weight
    assert float(pyramid_distance(gap, torch.zeros_like(gap))) == pytest.approx(wanted)


def test_earlier_layers_learn_through_later_ones():
    loss = ReviewKD(("a", "b"))
    low, high = noise(4, 3, 4, 4), noise(4, 5, 2, 2, seed=1).requires_grad_()
    call(loss, {"a": low, "b": high.detach()}, {"a": noise(4, 6, 4, 4), "b": noise(4, 8, 2, 2)})
    _, later = loss.fusions[1](high, None, (2, 2))
    fitted, _ = loss.fusions[0](low, later, (4, 4))
    (gradient,) = torch.autograd.grad(fitted.square().sum(), high)
    assert gradient.abs().max() > 0
    assert loss.fusions[1].attention is None


def test_review_kd_takes_maps_of_other_sizes_than_the_teachers():
    student = {"a": noise(4, 3, 8, 6), "b": noise(4, 5, 4, 3), "c": noise(4, 5)}
    teacher = {"a": noise(4, 6, 4, 4), "b": noise(4, 8, 7, 7), "c": noise(4, 9)}
    assert call(ReviewKD(("a", "b", "c")), student, teacher).isfinite()


# Stages


def test_every_stage_and_the_last_logits_learn_the_enhanced_targets():
    loss = OFA(("a", "b"), enhancement=1.5)
    features = {"a": noise(4, 3, 2, 2), "b": noise(4, 5, 6)}
    found = call(loss, features)
    labels = torch.arange(4) % 3
    theirs = Outputs(noise(4, 3, seed=9))
    every = [head(features[name]) for head, name in zip(loss.heads, ("a", "b"), strict=True)]
    last = OFALogit(enhancement=1.5)
    wanted = sum(
        last(Outputs(logits), theirs, batch_of(4, labels))
        for logits in [*every, noise(4, 3, seed=8)]
    )
    torch.testing.assert_close(found, wanted.detach())


def test_auxiliary_heads_mix_labels_and_the_students_own_logits():
    features = {"a": noise(4, 3, 2, 2)}
    loss = AuxiliaryHeads("a", temperature=3, soft_weight=0.3)
    found = call(loss, features)
    logits, labels = loss.heads[0](features["a"]), torch.arange(4) % 3
    soft = kl_divergence(logits, noise(4, 3, seed=8), temperature=3)
    wanted = 0.7 * cross_entropy(logits, labels) + 0.3 * soft
    torch.testing.assert_close(found, wanted.detach())


def test_the_students_last_logits_are_no_pupil_of_its_own_heads():
    logits, feature = noise(4, 3).requires_grad_(), noise(4, 5).requires_grad_()
    loss = AuxiliaryHeads("a")
    student = Outputs(logits, {"a": feature})
    loss.setup(DryRun(student))
    loss.double()(student, None, batch_of(4, torch.arange(4) % 3)).backward()
    assert logits.grad is None
    assert feature.grad.abs().max() > 0


# Shapes and settings


@pytest.mark.parametrize(
    ("title", "student", "teacher", "message"),
    [
        ("attention_transfer", (4, 3, 2, 2), (4, 6, 5), "tokens and maps have no places in common"),
        ("nst", (4, 3), (4, 3), r"gives \(4, 3\), but it takes maps"),
        ("fitnets", (4, 3, 2, 2), (4, 3), "Name two layers that give vectors"),
        ("pkt", (4, 3, 2, 2, 2), (4, 3), r"gives \(4, 3, 2, 2, 2\), but it takes vectors"),
        ("simkd", (4, 3), (4, 5), r"the student gives \(4, 3\), the teacher \(4, 5\)"),
    ],
)
def test_shapes_that_do_not_fit_are_one_clear_error(title, student, teacher, message):
    loss = LOSSES[title]() if title == "simkd" else LOSSES[title]("a")
    with pytest.raises(ShapeError, match=message):
        call(
            loss,
            {loss.student_layers[0]: noise(*student)},
            {loss.teacher_layers[0]: noise(*teacher)},
        )


def test_a_layer_that_does_not_give_a_row_a_sample_is_refused():
    loss = AttentionTransfer("windows")
    wide, right = {"windows": noise(16, 3, 2, 2)}, {"windows": noise(4, 3, 2, 2)}
    with pytest.raises(ShapeError, match=r"student's layer windows gives \(16, .* 4 rows"):
        loss(Outputs(noise(4, 2), wide), Outputs(noise(4, 2), right), batch_of(4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AttentionTransfer(()), r"layers must be names of layers, at least one; got \(\)"),
        (lambda: AttentionTransfer(("a", "b"), ("c",)), r"go in pairs, got 2 \(a, b\) and 1 \(c\)"),
        (lambda: AttentionTransfer("a", power=0), "power must be 1 or more, got 0"),
        (lambda: ActivationBoundaries("a", margin=0), "margin must be above 0, got 0"),
        (lambda: LOSSES["fsp"]("a"), "from layer to layer, got one"),
        (lambda: ReviewKD("a"), "reviews earlier layers, got one"),
        (lambda: ReviewKD(("a", "b"), width=0), "width must be 1 or more, got 0"),
        (lambda: LOSSES["vid"]("a", variance=0.0), "variance must be above 1e-05, got 0.0"),
        (lambda: LOSSES["factor_transfer"]("a", rate=0), "rate must be above 0, at most 4, got 0"),
        (lambda: LOSSES["srd"]("a", exponent=0.5), "exponent must be 1 or more, got 0.5"),
        (lambda: LOSSES["crd"]("a", width=0), "width must be 1 or more, got 0"),
        (lambda: LOSSES["crd"]("a", temperature=0), "temperature must be above 0"),
        (lambda: CRDMemory("a", momentum=1), "momentum must be 0 to below 1, got 1"),
        (lambda: CRDMemory("a", negatives=0), "negatives must be 1 or more, got 0"),
        (lambda: LOSSES["correlation_congruence"]("a", gamma=0), "gamma must be above 0"),
        (lambda: OFA("a", enhancement=0.5), "enhancement must be 1 or more and finite, got 0.5"),
        (lambda: AuxiliaryHeads("a", soft_weight=1.5), "soft_weight must be 0 to 1, got 1.5"),
        (lambda: SimKD("head", shrink_by=0), "shrink_by must be 1 or more, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_features_in_bf16_are_compared_in_float32():
    student, teacher = noise(4, 3).bfloat16(), noise(4, 3, seed=1).bfloat16()
    loss = LOSSES["rkd_distance"]("a")
    seen = []

    def distance(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> Tensor:
        seen.extend([ours[0].dtype, theirs[0].dtype])
        return ours[0].sum()

    outputs = [Outputs(noise(4, 2), {"a": feature}) for feature in (student, teacher)]
    over_counted(loss, *outputs, batch_of(4), distance)
    assert seen == [torch.float32, torch.float32]
