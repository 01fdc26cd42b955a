"""The samplers as slow, obvious definitions: Philox in Python integers, distributions in float64."""

from __future__ import annotations

import math

import numpy as np

MASK = (1 << 32) - 1


def philox(key: int, draw: int, element: int, block: int) -> list[int]:
    """The four words of one block (Salmon et al., 2011, Philox 4x32-10)."""
    c = [block & MASK, element & MASK, draw & MASK, draw >> 32]
    k = [key & MASK, key >> 32]
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & MASK, (p0 >> 32) ^ c[3] ^ k[1], p0 & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return c


def below(words, n: int, bits: int) -> int:
    """Lemire's rejection: the first word whose product with n has a low half that is not refused."""
    for word in words:
        if (word * n) % (1 << bits) >= (1 << bits) % n:
            return word * n >> bits
    raise AssertionError


def wide_words(key: int, draw: int, i: int):
    attempt = 0
    while True:
        words = philox(key, draw, i // 2, attempt)
        yield words[2 * (i % 2)] << 32 | words[2 * (i % 2) + 1]
        attempt += 1


def narrow_words(key: int, draw: int, i: int):
    attempt = 0
    while True:
        yield philox(key, draw, i // 4, attempt)[i % 4]
        attempt += 1


def uniform_indices(size, high, key, draw):
    return np.array([below(wide_words(key, draw, i), high, 64) for i in range(size)], np.int64)


def distinct_indices(size, high, key, draw):
    moved = {}
    result = []
    for i in range(size):
        other = i + below(wide_words(key, draw, i), high - i, 64)
        at_i = moved.get(i, i)
        result.append(moved.get(other, other))
        moved[other] = at_i
    return np.array(result, np.int64)


def permutation(n, key, draw):
    out = []
    for i in range(n):
        j = below(narrow_words(key, draw, i), i + 1, 32)
        out.append(i)
        out[i] = out[j]
        out[j] = i
    return np.array(out, np.int64)


def log_softmax(logits):
    logits = logits.astype(np.float64)
    with np.errstate(all="ignore"):
        shifted = logits - logits.max(axis=-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def uniform(key, draw, row, component):
    words = philox(key, draw, row, component // 2)
    high, low = words[2 * (component % 2)], words[2 * (component % 2) + 1]
    return ((high << 32 | low) >> 11) * 2.0**-53


def multi_categorical(logits, nvec, key, draw, mask=None, deterministic=False):
    """(action, log_prob, doubtful): doubtful marks draws so near a boundary that float32 may decide otherwise."""
    if mask is not None:
        logits = np.where(mask, logits, -np.inf)
    action = np.zeros((len(logits), len(nvec)), np.int64)
    log_prob = np.zeros(len(logits))
    doubtful = np.zeros(len(logits), bool)
    for b in range(len(logits)):
        for m, part in enumerate(np.split(logits[b], np.cumsum(nvec)[:-1])):
            log_p = log_softmax(part)
            cumulative = np.exp(log_p).cumsum()
            u = uniform(key, draw, b, m)
            if deterministic:
                action[b, m] = int(np.argmax(part))
            else:
                action[b, m] = int((cumulative <= u * cumulative[-1]).sum())
                doubtful[b] |= bool(np.abs(cumulative - u * cumulative[-1]).min() < 1e-6)
            log_prob[b] += log_p[action[b, m]]
    return action, log_prob, doubtful


def standard_normal(batch, dimensions, key, draw):
    z = np.zeros((batch, dimensions))
    for b in range(batch):
        for a in range(dimensions):
            words = philox(key, draw, b, a // 4)
            radius_word, angle_word = words[a % 4 // 2 * 2], words[a % 4 // 2 * 2 + 1]
            radius = math.sqrt(-2 * math.log((radius_word + 0.5) * 2.0**-32))
            angle = 2 * math.pi * angle_word * 2.0**-32
            z[b, a] = radius * (math.cos(angle) if a % 2 == 0 else math.sin(angle))
    return z


def gaussian_log_prob(action, mean, log_std):
    action, mean, log_std = (x.astype(np.float64) for x in (action, mean, log_std))
    z = (action - mean) / np.exp(log_std)
    return (-0.5 * z**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(axis=1)
