"""DyTox once more, as its official code has it: loops over heads and tokens, lists of classes.

Written from the card, in jax.numpy so that it has a gradient; call it under x64. Parameters are the
library's. A class's task is ``owner[c]``; classes are lists of Python integers.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np


def layer_norm(x, scale, shift):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + 1e-5) * scale + shift


def norm(x, p):
    return layer_norm(x, p["scale"], p["bias"])


def linear(x, p):
    return x @ p["kernel"] + p.get("bias", 0)


def mlp(x, p):
    h = linear(x, p["fc1"])
    return linear(h * (1 + jax.scipy.special.erf(h / math.sqrt(2))) / 2, p["fc2"])


def gpsa(x, p, heads, columns):
    """x [b, n, d]."""
    n, d = x.shape[1], x.shape[2] // heads
    qk, v, out = linear(x, p["qk"]), linear(x, p["value"]), []
    q, k = qk[..., : x.shape[2]], qk[..., x.shape[2] :]
    offsets = np.zeros((n, n, 3))
    for i in range(n):
        for j in range(n):
            dx, dy = j % columns - i % columns, j // columns - i // columns
            offsets[i, j] = dx, dy, dx * dx + dy * dy
    place = jax.nn.softmax(linear(offsets, p["position"]), axis=1)
    for h in range(heads):
        part, gate = slice(h * d, (h + 1) * d), jax.nn.sigmoid(p["gate"][h])
        content = jax.nn.softmax(q[..., part] @ k[..., part].swapaxes(1, 2) * d**-0.5)
        weights = (1 - gate) * content + gate * place[..., h]
        out.append(weights / weights.sum(-1, keepdims=True) @ v[..., part])
    return linear(jnp.concatenate(out, -1), p["out"])


def task_attention(token, x, p, heads):
    """One token [d] alone with the patches [b, n, d]: n + 1 keys, its own among them."""
    token, d, out = jnp.broadcast_to(token, x[:, 0].shape), x.shape[2] // heads, []
    a, z = p["attention"], norm(jnp.concatenate([token[:, None], x], 1), p["norm1"])
    q, k, v = linear(z[:, 0], a["query"]), linear(z, a["key"]), linear(z, a["value"])
    for h in range(heads):
        part = slice(h * d, (h + 1) * d)
        scores = jnp.einsum("bd,bnd->bn", q[..., part] * d**-0.5, k[..., part])
        out.append(jnp.einsum("bn,bnd->bd", jax.nn.softmax(scores), v[..., part]))
    e = token + linear(jnp.concatenate(out, -1), a["out"])
    return e + mlp(norm(e, p["norm2"]), p)


def embeddings(params, x, heads, side=2):
    """[b, T, d] of images [b, h, w, c]."""
    p, rows, columns = params["encoder"], x.shape[1] // side, x.shape[2] // side
    patches = [
        x[:, side * r : side * (r + 1), side * c : side * (c + 1)].reshape(len(x), -1)
        for r in range(rows)
        for c in range(columns)
    ]
    x = linear(jnp.stack(patches, 1), p["embed"]) + p["places"]
    for number in range(sum(name.startswith("block") for name in p)):
        block = p[f"block{number}"]
        x = x + gpsa(norm(x, block["norm1"]), block["attention"], heads, columns)
        x = x + mlp(norm(x, block["norm2"]), block)
    tokens = [task_attention(token, x, params["decoder"], heads) for token in params["tokens"]]
    return jnp.stack(tokens, 1)


def logits(params, seen, owner):
    """[b, C]: the classifiers' answers side by side."""
    h, out = params["heads"], []
    for c, t in enumerate(owner):
        z = layer_norm(seen[:, t], h["scale"][t], h["shift"][t])
        out.append(z @ h["kernel"][c] + h["bias"][c])
    return jnp.stack(out, 1)


def divergence(params, embedding, classes):
    """[b, 1 + len(classes)] of the throw-away head, for these new classes."""
    h, rows = params["divergence"], np.array([0, *(1 + c for c in classes)])
    z = layer_norm(embedding, h["scale"], h["shift"])
    return z @ h["kernel"][rows].T + h["bias"][rows]


def bce(z, target):
    """The mean over all entries, as F.binary_cross_entropy_with_logits."""
    return -(target * jax.nn.log_sigmoid(z) + (1 - target) * jax.nn.log_sigmoid(-z)).mean()


def kd(z, z_old):
    """The mean over all entries of p_o (log p_o - log p)."""
    log_old, log_new = jax.nn.log_softmax(z_old), jax.nn.log_softmax(z)
    return (jnp.exp(log_old) * (log_old - log_new)).mean()


def total(z, z_div, z_old, targets, num_old, weight):
    """The first phase's loss; classes stand in their order, ``num_old`` old ones in front."""
    if not num_old:
        return bce(z, targets)
    share = num_old / z.shape[1]
    aside = jnp.concatenate([targets[:, :num_old].sum(1, keepdims=True), targets[:, num_old:]], 1)
    loss = (1 - share) * bce(z, targets) + share * kd(z[:, :num_old], z_old)
    return loss + weight * bce(z_div, aside)


def adamw(params, gradients, rates, decay, moves):
    """Parameters after some steps of torch.optim.AdamW(betas=(.9, .999), eps=1e-8).

    ``params``: {path: array}; ``gradients``: of each step a function of them, which gives the same;
    ``moves(path)``: a mask or a number; ``decay(path)``: a number.
    """
    m = dict.fromkeys(params, 0.0)
    v = dict.fromkeys(params, 0.0)
    for number, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        new, slopes = {}, gradient(params)
        for path, p in params.items():
            g = slopes[path]
            m[path] = 0.9 * m[path] + 0.1 * g
            v[path] = 0.999 * v[path] + 0.001 * g**2
            step = m[path] / (1 - 0.9**number)
            step = step / (np.sqrt(v[path] / (1 - 0.999**number)) + 1e-8)
            new[path] = p - rate * (step + decay(path) * p) * moves(path)
        params = new
    return params
