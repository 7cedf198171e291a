"""Two arms of yes/no observations without a margin: the exact bet, and no wealth wasted beyond the bar.

The null hypothesis: no observation of the block is likelier to be a "yes" under the candidate ``b`` than under the
champion ``a``, and chance alone decided which arm an observation went to. Given the block's sizes and its number ``k``
of "yes", the number that fell to the candidate is then at most (stochastically) hypergeometric, whatever the base rate
is and however it drifts, also inside the block: no nuisance parameter is left. Under an odds ratio ``w`` it follows
Fisher's noncentral hypergeometric distribution (Fisher 1935; McCullagh & Nelder 1989, section 7.3.2). Their ratio

    F_w(x) = w^x / sum_y p_0(y) w^y,      p_0(y) = C(n_b, y) C(n_a, k - y) / C(n_a + n_b, k),

has expectation 1 under equality, and at most 1 where the candidate is better, because it rises with ``x``. It is the
likelihood ratio of the conditional model, so it bets with the growth-optimal stake (Grunwald, de Heide & Koolen 2024,
JRSS-B, "Safe testing", theorem 1).

A test at level alpha ends when the wealth reaches the bar ``1 / alpha``; what a block would add beyond the bar is
wasted. Because the null distribution of the block is known, the waste can be given back: the factor ``F`` is replaced
by ``min(b F, bar / wealth)`` with the ``b >= 1`` for which the expectation is 1 again (Fischer & Ramdas 2024,
arXiv:2410.16076, "Improving the (approximate) sequential probability ratio test by avoiding overshoot", section 2).

Why a better candidate cannot help: for one outcome of all observations and two assignments that differ by a swap of an
observation ``i`` that is a "yes" with one ``j`` that is not, the assignment with ``i`` on the candidate has probability
``p_i^b (1 - p_j^a) <= p_i^a (1 - p_j^b)`` of that outcome; so the candidate's number, given ``k``, has a falling
likelihood ratio to the hypergeometric one.
"""

from __future__ import annotations

import numpy as np

from windtunnel.stats.betting import FloatArray, log_mean

#: Odds ratios the wealth is spread over, and the share of each: most on what a rollout can find in time.
ODDS: FloatArray = np.array([1.15, 1.4, 2.0, 4.5, 12.0, 100.0])
ODDS.setflags(write=False)
SHARES: FloatArray = np.array([0.02, 0.05, 0.38, 0.38, 0.10, 0.07])
SHARES.setflags(write=False)
#: Where the log wealth of each alternative starts, so that a plain mean over alternatives is the weighted one.
START: FloatArray = np.log(SHARES * len(SHARES))
START.setflags(write=False)

_OVER = 3e-6  # the bar is aimed at from above, or rounding the stored wealth down would leave it just below
_BROKE = -40.0  # an alternative with less log wealth bets no more: it could not matter, and costs time
_SURE = 9.0  # standard deviations around the possible numbers; beyond lies less than rounding takes away


def log_hypergeometric(n_a: FloatArray, n_b: FloatArray, k: FloatArray, x: FloatArray | None = None) -> FloatArray:
    """Logarithms of the chances that ``x`` of ``k`` marked ones lie among the ``n_b``.

    Args:
        n_a, n_b, k: shape (...), whole numbers, ``k <= n_a + n_b``.
        x: shape (..., X), rising by one; ``0, 1, ..., max(k)`` unless told. What lies outside is taken as impossible.

    Returns:
        shape (..., X); minus infinity where ``x`` is impossible.
    """
    n_a, n_b, k = (np.asarray(v, dtype=np.float64)[..., None] for v in (n_a, n_b, k))
    if x is None:
        x = np.arange(int(k.max(initial=0.0)) + 1, dtype=np.float64)
    possible = (x >= np.maximum(0.0, k - n_a)) & (x <= np.minimum(k, n_b))
    # p(x + 1) / p(x), summed up in logarithms: no factorials, so no limit on the numbers.
    up = np.maximum(n_b - x, 1.0) * np.maximum(k - x, 1.0)
    down = np.maximum(x + 1, 1.0) * np.maximum(n_a - k + x + 1, 1.0)
    steps = np.where(possible, np.log(up / down), 0.0)
    logs = np.zeros(steps.shape)
    np.cumsum(steps[..., :-1], axis=-1, out=logs[..., 1:])
    logs = np.where(possible, logs, -np.inf)
    logs = logs - logs.max(axis=-1, keepdims=True)
    result: FloatArray = logs - np.log(np.exp(logs).sum(axis=-1, keepdims=True))
    return result


def log_gain(
    counts_a: FloatArray,
    counts_b: FloatArray,
    log_wealth: FloatArray,
    *,
    log_bar: float | None = None,
    odds: FloatArray = ODDS,
) -> FloatArray:
    """What one block adds to the log wealth of each alternative.

    Args:
        counts_a, counts_b: shape (..., 2): how many observations were no, and yes; whole numbers.
        log_wealth: shape (..., K): so far, beginning with ``START``; the wealth is its mean (``betting.log_mean``).
        log_bar: where the test ends, ``log(1 / alpha)``, the same at each block; the wealth never gets above it.
            None: no bar, the plain likelihood ratio.
        odds: shape (K,): the alternatives, above 1 and rising.

    Returns:
        shape (..., K); 0 where an arm is empty, nothing was a "yes", or the bar was reached before, and for an
        alternative that has lost nearly everything (it stops betting).
    """
    n_a, n_b = counts_a.sum(axis=-1), counts_b.sum(axis=-1)
    found = counts_b[..., 1]
    k = np.where((n_a > 0) & (n_b > 0), counts_a[..., 1] + found, 0.0)
    result = np.zeros(np.broadcast_shapes((*k.shape, len(odds)), log_wealth.shape))
    wealth = np.broadcast_to(log_mean(log_wealth), k.shape)
    telling = (k > 0) & (wealth < (np.inf if log_bar is None else log_bar))
    if not telling.any():
        return result
    log_wealth = np.broadcast_to(log_wealth, result.shape)[telling]
    betting = log_wealth > _BROKE
    some = betting.any(axis=0)
    if not some.any():
        return result
    tilt = np.log(odds[some])
    n_a, n_b, k, found = n_a[telling], n_b[telling], k[telling], found[telling]
    x = _window(n_a, n_b, k, np.where(betting, odds, 1.0).max(axis=-1))
    chances = log_hypergeometric(n_a, n_b, k, x)
    normal = np.zeros(log_wealth.shape)
    normal[:, some] = np.where(betting[:, some], _log_tilted(chances, x, tilt), 0.0)
    stakes = np.where(betting, np.log(odds), 0.0)
    gain = found[:, None] * stakes - normal
    if log_bar is not None:
        gain += _given_back(chances, x, stakes, normal, log_wealth, gain, log_bar + _OVER)[:, None]
    result[telling] = gain
    return result


def _window(n_a: FloatArray, n_b: FloatArray, k: FloatArray, odds: FloatArray) -> FloatArray:
    """Numbers ``x`` that are at all likely under odds ratios from 1 to ``odds``; shape (R, X).

    Mean and variance of Fisher's noncentral distribution as for large numbers (McCullagh & Nelder 1989, section 7.3.2).
    """

    def middle(w: FloatArray) -> tuple[FloatArray, FloatArray]:
        # m (n_a - k + m) = w (k - m) (n_b - m)
        b = w * (k + n_b) + n_a - k
        root = np.sqrt(np.maximum(b * b - 4 * (w - 1) * w * k * n_b, 0.0))
        m = 2 * w * k * n_b / (b + root)
        parts = np.stack([m, k - m, n_b - m, n_a - k + m])
        spread: FloatArray = 1 / (1 / np.maximum(parts, 1e-9)).sum(axis=0)
        return m, spread

    none, spread_none = middle(np.ones_like(odds))
    most, spread_most = middle(odds)
    low = np.floor(none - _SURE * np.sqrt(spread_none) - 12)
    high = np.ceil(most + _SURE * np.sqrt(spread_most) + 30)
    low = np.maximum(low, np.maximum(0.0, k - n_a))
    high = np.maximum(np.minimum(high, np.minimum(k, n_b)), low)
    found: FloatArray = low[:, None] + np.arange(int((high - low).max()) + 1, dtype=np.float64)
    return found


def _log_tilted(chances: FloatArray, x: FloatArray, tilt: FloatArray) -> FloatArray:
    """log sum_x exp(chances(x) + tilt x): shapes (R, X), (R, X), (K,) to (R, K)."""
    start, width = x[:, :1], x.shape[1]
    steps = np.arange(width, dtype=np.float64)
    if tilt[-1] * width < 600:  # what is too small for a plain number is so in the sum, too
        plain: FloatArray = np.log(np.exp(chances) @ np.exp(steps[:, None] * tilt)) + start * tilt
        return plain
    result = np.empty((len(x), len(tilt)))
    for i, t in enumerate(tilt):
        logs = chances + t * steps
        top = logs.max(axis=-1, keepdims=True)
        result[:, i] = (np.log(np.exp(logs - top).sum(axis=-1, keepdims=True)) + top + start * t)[:, 0]
    return result


def _given_back(
    chances: FloatArray,
    x: FloatArray,
    stakes: FloatArray,
    normal: FloatArray,
    log_wealth: FloatArray,
    gain: FloatArray,
    log_bar: float,
) -> FloatArray:
    """Logarithm of ``min(b F, bar / wealth) / F`` for the mixture's factor ``F``; shape (R,).

    ``min(b F, r)`` is at most ``b F`` below a place ``c`` and ``r`` from there on, whatever ``c`` is; so each ``c``
    gives a ``b`` that is not too large, and the largest of them is exact.
    """
    out = np.zeros(len(gain))
    # First a bound that costs nothing: no alternative can gain more than at its largest possible x.
    last = np.where(np.isfinite(chances), x, 0.0).max(axis=-1)
    most = (log_wealth + last[:, None] * stakes - normal).max(axis=-1)
    near = np.flatnonzero(np.maximum(most, (log_wealth + gain).max(axis=-1)) > log_bar)
    if near.size == 0:
        return out
    wealth = log_mean(log_wealth[near])
    logs, room = chances[near], log_bar - wealth
    own = log_mean(log_wealth[near] + gain[near]) - wealth
    factor = log_mean((log_wealth[near] - normal[near])[:, None, :] + x[near][..., None] * stakes[near][:, None, :])
    factor = np.where(np.isfinite(logs), factor - wealth[:, None], -np.inf)
    over = np.flatnonzero(np.maximum(factor.max(axis=-1), own) > room)
    if over.size == 0:
        return out
    near, logs, room, factor, own = near[over], logs[over], room[over], factor[over], own[over]
    r = np.exp(room)[:, None]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        paid = np.cumsum(np.exp(np.minimum(logs + factor, 700.0)), axis=-1)
        above = np.clip(1.0 - np.cumsum(np.exp(logs), axis=-1), 0.0, 1.0)
        scale = np.where(paid > 0, (1.0 - r * above) / np.where(paid > 0, paid, 1.0), 0.0).max(axis=-1)
    out[near] = np.minimum(np.log(np.maximum(scale, 1.0)), room - own)
    return out
