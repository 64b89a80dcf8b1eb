import numpy as np
import pytest
from oracles import paper_steps

from ddim_jax.diffusion import schedule as sch

SIZES = [(T, S) for T in range(1, 41) for S in range(1, T + 1)]
SIZES += [(T, S) for T in (100, 999, 1000) for S in (1, 2, 3, 7, 10, 20, 50, 99, 100)]
SIZES += [(1000, S) for S in (200, 300, 500, 999, 1000)]


def test_alpha_bar_is_the_running_product_with_a_one_in_front():
    """By hand: .9, .9 * .8, .9 * .8 * .7. An index off by one, or a product of the betas, fails."""
    schedule = sch.from_betas([0.1, 0.2, 0.3])
    np.testing.assert_allclose(schedule.alpha_bar, [1, 0.9, 0.72, 0.504], rtol=1e-15)
    assert schedule.num_steps == 3 and schedule.alpha_bar.dtype == np.float64 and not schedule.alpha_bar.flags.writeable


def test_linear_is_the_schedule_of_ddpm():
    """Oracle 21: beta_1 = 1e-4 leaves 1 - a_1 = 1e-4; the other numbers are the product of DDPM's betas, worked out apart."""
    a = sch.linear().alpha_bar
    np.testing.assert_allclose(1 - a[1], 1e-4, rtol=1e-10)
    np.testing.assert_allclose([a[500], a[1000], np.sqrt(1 / a[1000] - 1)], [0.0785872, 4.03583e-5, 157.407], rtol=5e-6)
    log_a = sum(np.log1p(-(1e-4 + i * (2e-2 - 1e-4) / 999)) for i in range(1000))
    np.testing.assert_allclose(np.log(a[1000]), log_a, rtol=1e-12)


def test_cosine_is_the_published_curve_until_its_last_betas_are_capped():
    """Eq. 17 of arXiv 2102.09672: a_t = f(t) / f(0), f(t) = cos^2((t/T + s) / (1 + s) pi/2), s = .008; beta <= .999."""
    a = sch.cosine(100).alpha_bar
    curve = np.cos((np.arange(101) / 100 + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(a[:100], curve[:100] / curve[0], rtol=1e-10)
    np.testing.assert_allclose(a[100] / a[99], 0.001, rtol=1e-10)  # uncapped it would be 0: beta_100 = 1


@pytest.mark.parametrize("spacing", sch.SPACINGS)
def test_every_subsequence_has_its_steps_once_and_in_order(spacing):
    for T, S in SIZES:
        tau = sch.subsequence(T, S, spacing)
        assert tau.shape == (S + 1,) and np.issubdtype(tau.dtype, np.integer), (T, S)
        assert tau[0] == 0 and np.all(np.diff(tau) > 0) and tau[-1] <= T, (T, S, tau)


@pytest.mark.parametrize("spacing", ["leading", "quadratic"])
def test_subsequence_equals_the_papers_code_where_that_gives_as_many_steps(spacing):
    equal = 0
    for T, S in SIZES:
        theirs = paper_steps(T, S, spacing)
        if len(theirs) == len(set(theirs)) == S:
            equal += 1
            np.testing.assert_array_equal(sch.subsequence(T, S, spacing)[1:] - 1, theirs, err_msg=f"{T=} {S=}")
    assert equal > 100


@pytest.mark.parametrize("S, distinct", [(10, 10), (20, 20), (50, 49), (100, 96), (200, 187), (1000, 688)])
def test_quadratic_moves_the_repeats_of_the_papers_code_up(S, distinct):
    """The paper's code visits these numbers of distinct steps out of 1000, as it stands (counted from its formula)."""
    theirs = paper_steps(1000, S, "quadratic")
    assert len(set(theirs)) == distinct
    expected = [theirs[0]]
    for step in theirs[1:]:
        expected.append(max(step, expected[-1] + 1))
    np.testing.assert_array_equal(sch.subsequence(1000, S, "quadratic")[1:] - 1, expected)


def test_leading_takes_the_steps_asked_for_where_the_papers_code_takes_more():
    assert len(paper_steps(1000, 300, "leading")) == 334  # strides of 1000 // 300 = 3
    tau = sch.subsequence(1000, 300, "leading")
    assert len(tau) == 301 and tau[-1] == 1 + 299 * 1000 // 300


def test_linspace_and_trailing_are_within_rounding_of_their_lines():
    """Both end at T; 'linspace' begins at 1, 'trailing' one stride T/S from 0."""
    for T, S in SIZES:
        linspace, trailing = (sch.subsequence(T, S, spacing) for spacing in ("linspace", "trailing"))
        assert linspace[-1] == trailing[-1] == T, (T, S)
        assert S == 1 or np.all(np.abs(linspace[1:] - (1 + np.arange(S) * (T - 1) / (S - 1))) <= 0.5 + 1e-9), (T, S)
        assert np.all(np.abs(trailing - np.arange(S + 1) * T / S) <= 0.5 + 1e-9), (T, S)


@pytest.mark.parametrize(
    "alpha_bar, says",
    [
        ([0.9, 0.5, 0.1], r"alpha_bar\[0\] is 0.9; expected exactly 1 .*put a 1 in front"),
        ([1.0, 0.5, 0.5], r"alpha_bar\[1\] = 0.5 is followed by alpha_bar\[2\] = 0.5"),
        ([1.0, 0.5, 0.6, 0.1], r"alpha_bar\[1\] = 0.5 is followed by alpha_bar\[2\] = 0.6.* rising noise"),
        ([1.0, 0.5, -0.1], r"alpha_bar\[1\] = 0.5 is followed by alpha_bar\[2\] = -0.1"),
        ([1.0, np.nan, 0.1], r"alpha_bar\[0\] = 1.0 is followed by alpha_bar\[1\] = nan"),
        ([1.0], r"shape \(1,\); expected \[T\+1\]"),
        ([[1.0, 0.5]], r"shape \(1, 2\); expected \[T\+1\]"),
    ],
)
def test_a_schedule_that_does_not_fall_from_one_is_refused(alpha_bar, says):
    with pytest.raises(ValueError, match=says):
        sch.from_alpha_bar(alpha_bar)


@pytest.mark.parametrize("betas", [[0.1, -0.1], [0.0, 0.1], [0.1, 1.1], [0.1, np.nan], [1.0, 0.5], [[0.1, 0.2]], 0.1])
def test_bad_betas_are_refused(betas):
    with pytest.raises(
        ValueError, match=r"betas must be \[T\] numbers in \(0, 1\).*(got shape|of \d+ are not, the first of them beta \d)"
    ):
        sch.from_betas(betas)


def test_zero_at_the_end_is_a_schedule():
    assert sch.from_betas([0.5, 1.0]).alpha_bar[-1] == 0


@pytest.mark.parametrize(
    "S, spacing, says",
    [
        (11, "linspace", "cannot choose 11 sampling steps out of 10: give a whole number from 1 to 10"),
        (2.5, "trailing", "cannot choose 2.5 sampling steps"),
        (0, "linspace", "cannot choose 0 sampling steps"),
        (5, "uniform", "unknown spacing 'uniform'; expected one of linspace, leading, trailing, quadratic"),
    ],
)
def test_impossible_subsequences_are_refused(S, spacing, says):
    with pytest.raises(ValueError, match=says):
        sch.subsequence(10, S, spacing)


def test_scaled_linear_is_linear_in_the_square_root():
    """Latent diffusion's betas: the square of numbers evenly from sqrt(.00085) to sqrt(.012). Three of them by hand."""
    middle = (np.sqrt(0.00085) + np.sqrt(0.012)) / 2
    expected = np.cumprod([1, 1 - 0.00085, 1 - middle**2, 1 - 0.012])
    np.testing.assert_allclose(sch.scaled_linear(3).alpha_bar, expected, rtol=1e-12)


def test_zero_terminal_snr_moves_the_end_to_zero_and_keeps_the_beginning():
    """arXiv 2305.08891, algorithm 1: of r = sqrt(a), r' = (r - r_T) r_1 / (r_1 - r_T)."""
    schedule = sch.linear()
    moved = sch.zero_terminal_snr(schedule)
    assert moved.alpha_bar[0] == 1 and moved.alpha_bar[-1] == 0
    np.testing.assert_allclose(moved.alpha_bar[1], schedule.alpha_bar[1], rtol=1e-12)
    r, T = np.sqrt(schedule.alpha_bar), 1000
    np.testing.assert_allclose(np.sqrt(moved.alpha_bar[400]), (r[400] - r[T]) * r[1] / (r[1] - r[T]), rtol=1e-10)


def test_log_snr_spacing_is_even_where_there_are_steps_enough():
    """The log-SNR of neighbours differs by one number, up to the trained steps' own distances; and both ends are visited."""
    schedule = sch.linear()
    tau = sch.log_snr_subsequence(schedule, 20)
    assert tau[0] == 0 and tau[1] == 1 and tau[-1] == 1000
    a = schedule.alpha_bar[tau[1:]]
    gaps = -np.diff(np.log(a / (1 - a)))
    all_gaps = -np.diff(np.log(schedule.alpha_bar[1:] / (1 - schedule.alpha_bar[1:])))
    evenly = (np.log(a[0] / (1 - a[0])) - np.log(a[-1] / (1 - a[-1]))) / 19
    for gap, t, s in zip(gaps, tau[2:], tau[1:-1]):
        assert abs(gap - evenly) <= all_gaps[max(s - 2, 0) : t].max(), (gap, evenly)
    with pytest.raises(ValueError, match="cannot choose 1001 sampling steps out of 1000"):
        sch.log_snr_subsequence(schedule, 1001)
