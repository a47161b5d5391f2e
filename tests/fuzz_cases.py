"""The calls of the CPU backend's kernels that ``fuzz_kernels.py`` makes, one function for each kind."""

import numpy as np
from fuzz_calls import FLOATS, Call

from sparsecore_cpu import _kernels


def convolution(call: Call) -> None:
    """``convolve`` and ``convolve_masked``."""
    form, halves = call.form(), call.random.random() < 0.3
    outputs, out_step = call.random.randint(1, 6), call.random.choice([1, 1, 2, 3])
    made = (*form[:3], outputs, call.random.randint(0, 2))
    x, out = call.buffer(form, halves=halves), call.buffer(made, halves=halves)
    if call.odd():
        x = out
    add = call.random.choice([None, out, x if call.odd() else None])
    if call.random.random() < 0.2:
        add = call.buffer(made, halves=halves)
    listed = call.weights(form, outputs)
    steps = call.steps(1, out_step, call.random.randrange(out_step), call.random.randrange(out_step))
    read = call.read(x, form, halves=halves)
    if call.random.random() < 0.5:
        sums = None if call.random.random() < 0.5 else call.sums(made)
        call.do(call.kernels.convolve, read, out, add, listed, steps, sums, call.threads())
    else:
        mask = call.mask(made, halves=halves)
        call.do(call.kernels.convolve_masked, read, out, add, listed, steps, mask, call.sums(made), call.threads())


def gradients(call: Call) -> None:
    """``weight_gradient`` and ``backward``."""
    form, halves = call.form(), call.random.random() < 0.3
    stride, outputs = call.random.choice([1, 1, 2]), call.random.randint(1, 6)
    made = (form[0], form[1], form[2], outputs, call.random.randint(0, 2))
    given = (form[0], form[1] * stride, form[2] * stride, form[3], form[4])
    x = call.read(call.buffer(given, halves=halves), given, halves=halves)
    gradient = call.read(call.buffer(made, halves=halves), made, halves=halves)
    listed = call.weights(given, outputs)
    slopes = call.array("f4", call.slopes)
    if call.random.random() < 0.4:
        steps = call.steps(stride, 1)
        call.do(call.kernels.weight_gradient, x, gradient, listed, steps, slopes, call.threads())
        return
    places = [(row, column) for row in range(stride) for column in range(stride)]
    behind = [(call.weights(made, form[3]), call.steps(1, stride, *place)) for place in places]
    if call.odd():
        behind = call.random.choice([[], behind[:-1], behind * 2, [None], [(1, 2)], tuple(behind), "text"])
    out = call.buffer(given, halves=halves)
    add = call.random.choice([None, out])
    mask = call.mask(given, halves=halves) if call.random.random() < 0.5 else None
    size, sums, threads = call.integer(stride), call.sums(given), call.threads()
    call.do(call.kernels.backward, x, gradient, listed, size, slopes, out, add, behind, mask, sums, threads)


def passes(call: Call) -> None:
    """The passes over activations."""
    form, halves = call.form(), call.random.random() < 0.3
    x, out, other = (call.buffer(form, halves=halves) for _ in range(3))
    if call.random.random() < 0.2:
        x = out
    vector, threads = lambda: call.vector(form), call.threads()
    kernels, features = call.kernels, lambda: call.features(form[0], form[3])
    add = call.random.choice([None, other, out])
    call.random.choice([
        lambda: call.do(kernels.affine, x, out, vector(), vector(), threads),
        lambda: call.do(kernels.affine_relu, x, out, vector(), vector(), threads),
        lambda: call.do(kernels.combine, x, other, out, add, vector(), vector(), vector(), threads),
        lambda: call.do(kernels.relu_backward, x, out, call.mask(form, halves=halves), call.sums(form), threads),
        lambda: call.do(kernels.moments, x, vector(), call.sums(form), threads),
        lambda: call.do(kernels.gradient_sums, x, other, vector(), call.sums(form), threads),
        lambda: call.do(kernels.pool, x, features(), threads),
        lambda: call.do(kernels.pool_backward, features(), out, add, threads),
    ])()  # fmt: skip


def functions(call: Call) -> None:
    """The passes that apply a function to each entry."""
    form, halves = call.form(), call.random.random() < 0.3
    x, out, other = (call.buffer(form, halves=halves) for _ in range(3))
    if call.random.random() < 0.2:
        x = out
    function = call.random.choice([*_kernels.PointwiseFunction, 3 if call.odd() else _kernels.PointwiseFunction.GELU])
    parameter, add = call.random.choice(FLOATS), call.random.choice([None, other, out])
    scale, shift, threads = call.vector(form), call.vector(form), call.threads()
    if call.random.random() < 0.5:
        call.do(call.kernels.pointwise, function, parameter, x, out, add, scale, shift, threads)
        return
    mean, sums = call.vector(form), call.random.choice([None, call.sums(form)])
    call.do(
        call.kernels.pointwise_backward,
        *(function, parameter, other, x, out, add, scale, shift, mean, sums, threads),
    )


def pooling(call: Call) -> None:
    """Sums and maxima of windows, and the gradients of these."""
    form, halves = call.form(), call.random.random() < 0.3
    made = (form[0], call.random.randint(1, 9), call.random.randint(1, 9), form[3], call.random.randint(0, 2))
    x, out, other = (call.buffer(of, halves=halves) for of in (form, made, form))
    if call.odd():
        x = out
    windows, threads, kernels = call.windows(made, form), call.threads(), call.kernels
    if call.random.random() < 0.4:
        by_input = call.random.random() < 0.5
        sides = (form if by_input else made)[1:3]
        add = call.random.choice([None, out, x if call.odd() else None])
        factors = [call.array("f4", side) for side in sides]
        call.do(kernels.window_sum, x, out, add, windows, *factors, by_input, threads)
    elif call.random.random() < 0.4:
        call.do(kernels.max_pool, call.read(x, form, halves=halves), out, windows, threads)
    else:
        add = call.random.choice([None, other, x if call.odd() else None])
        read = call.read(x, form, halves=halves)
        mask = call.mask(form, halves=halves) if call.random.random() < 0.5 else None
        sums = call.sums(form) if mask is not None or call.odd() else None
        call.do(kernels.max_pool_backward, out, read, other, add, windows, mask, sums, threads)


def shapes(call: Call) -> None:
    """Selections of channels, and images as features."""
    form, halves = call.form(), call.random.random() < 0.3
    x, threads = call.buffer(form, halves=halves), call.threads()
    if call.random.random() < 0.5:
        count, first = call.random.randint(1, 6), call.random.randint(0, 3)
        made = (*form[:3], first + count + call.random.randint(0, 2), call.random.randint(0, 2))
        out, channels = call.buffer(made, halves=halves), call.array("i4", count)
        if call.takes(channels, count):
            channels[...] = [call.random.randint(-1, form[3] - 1) for _ in range(count)]
            if call.odd():
                channels[0] = call.random.choice([form[3], -7, 2**31 - 1, -(2**31)])
        add = call.random.choice([None, out, x if call.odd() else None])
        call.do(call.kernels.gather_channels, x, channels, out, call.integer(first), add, threads)
        return
    features, channels_first = call.features(form[0], form[1] * form[2] * form[3]), call.random.random() < 0.5
    if call.random.random() < 0.5:
        call.do(call.kernels.flatten, x, features, channels_first, threads)
    else:
        add = call.random.choice([None, x, call.buffer(form, halves=halves)])
        call.do(call.kernels.unflatten, features, x, add, channels_first, threads)


def products(call: Call) -> None:
    """Products and sums of two activations, and dropout."""
    form, halves = call.form(), call.random.random() < 0.3
    count, height, width, channels, border = form
    x, out, other = (call.buffer(form, halves=halves) for _ in range(3))
    if call.random.random() < 0.3:  # of features
        form = (count, 1, 1, channels, 0)
        x, out, other = (call.features(count, channels) for _ in range(3))
    if call.random.random() < 0.2:
        x = out
    one_channel = (count, height, width, 1, call.random.choice([border, 0, 1]))
    small = call.random.choice([
        lambda: other,
        lambda: call.features(count, channels),
        lambda: call.features(count, 1),
        lambda: call.buffer(one_channel, halves=halves),
    ])()  # fmt: skip
    kernels, threads, add = call.kernels, call.threads(), call.random.choice([None, other, out])
    shape = (-(-count // call.lanes), height, channels, width, call.lanes)
    if form[1:3] == (1, 1) and call.random.random() < 0.5:
        shape = (1, 1, channels, -(-count // call.lanes), call.lanes)
    call.random.choice([
        lambda: call.do(kernels.multiply, x, small, out, add, threads),
        lambda: call.do(kernels.add, x, small, out, add, threads),
        lambda: call.do(kernels.sum_pixels, x, call.random.choice([None, other]), small, threads),
        lambda: call.do(kernels.sum_channels, x, call.random.choice([None, other]), small, threads),
        lambda: call.do(kernels.dropout, x, call.array("u1", *shape), call.random.choice(FLOATS), out, add, threads),
    ])()  # fmt: skip


def norms(call: Call) -> None:
    """Layer norm, RMS norm and group norm."""
    form, halves = call.form(), call.random.random() < 0.3
    count, height, width, channels, _ = form
    blocks, by_image = -(-count // call.lanes), call.random.random() < 0.5
    if call.random.random() < 0.3:
        by_image, pixels = by_image and call.odd(), blocks
        x, out, other = (call.features(count, channels) for _ in range(3))
    else:
        pixels = blocks * (1 if by_image else height * width)
        x, out, other = (call.buffer(form, halves=halves) for _ in range(3))
    if call.random.random() < 0.2:
        x = out
    groups = call.random.choice([1, 1, 2, 3, channels])
    statistics, scale, shift = call.array("f4", pixels, groups, 2, call.lanes), call.vector(form), call.vector(form)
    groups, centered, epsilon = call.integer(groups), call.random.random() < 0.7, call.random.choice(FLOATS)
    threads, add = call.threads(), call.random.choice([None, other, out])
    if call.random.random() < 0.5:
        options = (scale, shift, statistics, groups, by_image, epsilon, centered, threads)
        call.do(call.kernels.normalize, x, out, *options)
    else:
        options = (scale, statistics, groups, by_image, centered, call.sums(form), threads)
        call.do(call.kernels.normalize_backward, other, x, out, add, *options)


def pictures(call: Call) -> None:
    """``pack`` and ``unpack``."""
    form = call.form()
    if call.random.random() < 0.3:
        buffer, shape = call.features(form[0], form[3]), (form[0], 1, 1, form[3])
    else:
        buffer, shape = call.buffer(form, halves=call.random.random() < 0.3), (*form[:3], form[3])
    order = call.random.sample(range(4), 4)
    images = call.array("f4", *(shape[axis] for axis in order))
    if isinstance(images, np.ndarray) and images.ndim == 4:
        images = images.transpose(np.argsort(order))
        if call.random.random() < 0.2:
            images = images[:, ::-1]
    if call.random.random() < 0.5:
        call.do(call.kernels.pack, images, buffer, call.threads())
    else:
        call.do(call.kernels.unpack, buffer, images, call.threads())


def lists(call: Call) -> None:
    """What fills lists."""
    count, buckets = call.random.choice([0, 1, 5, 100]), call.random.randint(0, 5)
    keys, order = call.array("i4", count), call.array("i4", count)
    for array in (keys, order):
        if call.takes(array, count):
            array[...] = [call.random.randrange(max(1, min(buckets, count))) for _ in array]
            if call.odd() and len(array):
                array[-1] = call.random.choice([-1, buckets, 2**31 - 1, -(2**31)])
    if call.odd():
        order = keys
    entries, listed = call.array("f4", count), call.array("f4", count)
    call.random.choice([
        lambda: call.do(_kernels.sort_by_bucket, keys, order, call.array("i4", buckets + 1)),
        lambda: call.do(_kernels.gather, entries, order, listed, call.threads()),
        lambda: call.do(_kernels.scatter, listed, order, entries, call.threads()),
    ])()  # fmt: skip


def by_rows(call: Call) -> None:
    """Convolutions of one image."""
    channels, pixels = call.random.randint(1, 5), 16 * call.random.randint(1, 13)
    room, start = pixels + 16 * call.random.randrange(3), 16 * call.random.randrange(3)
    ends = sorted(call.random.randint(0, 12) for _ in range(channels))
    x, out = call.array("f4", 2 * room + start), call.array("f4", channels * room + start)
    pointers, offsets = call.array("i4", channels + 1), call.array("i4", ends[-1])
    for array, content in ((pointers, [0, *ends]), (offsets, [call.random.randint(0, room) for _ in range(ends[-1])])):
        if call.takes(array, len(content)):
            array[...] = content
            if call.odd() and len(content):
                array[-1] = call.random.choice([-1, 2**31 - 1, -(2**31), 0])
    add = call.random.choice([None, call.array("f4", channels * room + start), out if call.odd() else None])
    made = call.do(
        _kernels.RowConvolution,
        kernels="no such" if call.odd() else call.kernels.name,
        x=x,
        x_start=call.integer(start),
        out=out,
        out_start=call.integer(start),
        channel_stride=call.integer(room),
        add=add,
        pointers=pointers,
        offsets=offsets,
        values=call.array("f4", ends[-1]),
        bias=call.array("f4", channels),
        inside=call.array("f4", pixels),
        floor=call.random.choice(FLOATS),
        ceiling=call.random.choice(FLOATS),
    )
    if call.random.random() < 0.5:
        call.change()
    call.do(made.run, call.threads())
    greatest = call.do(
        _kernels.RowMaximum,
        x=x,
        x_start=call.integer(start),
        x_stride=call.integer(room),
        out=out,
        out_start=call.integer(start),
        out_stride=call.integer(room),
        channels=call.integer(channels),
        offsets=offsets,
        inside=call.array("f4", pixels),
    )
    call.do(greatest.run, call.threads())


def attention(call: Call) -> None:
    """Attention, with memory as it lies behind a linear layer or in any other way."""
    draw = call.random.randint
    examples, heads, tokens, keys, features, values = (draw(1, most) for most in (2, 3, 40, 40, 9, 9))

    def operand(rows: int, columns: int) -> object:
        array = call.array("f4", examples, heads, columns, rows)
        return array.swapaxes(-1, -2) if isinstance(array, np.ndarray) and array.ndim > 1 else array

    query, key, value = operand(tokens, features), operand(keys, features), operand(keys, values)
    out = query if call.odd() else operand(tokens, values)
    name, scale = "no such" if call.odd() else call.kernels.name, call.random.choice(FLOATS)
    call.do(_kernels.attend, name, query, key, value, out, call.random.random() < 0.5, scale, call.threads())


def trained_attention(call: Call) -> None:
    """Attention in training, and its gradients."""
    draw = call.random.randint
    examples, heads, tokens, keys, features = (draw(1, most) for most in (2, 3, 140, 140, 20))
    name, scale = "no such" if call.odd() else call.kernels.name, call.random.choice(FLOATS)
    query, out, gradient, of_query = (call.array("f4", examples, heads, tokens, features) for _ in range(4))
    key, value, of_key, of_value = (call.array("f4", examples, heads, keys, features) for _ in range(4))
    computed = (name, query, key, value, query if call.odd() else out, call.array("f4", examples, heads, tokens))
    more = (call.random.random() < 0.5, scale, call.threads())
    call.do(_kernels.attend_in_training, *computed, *more)
    call.do(_kernels.attention_gradients, *computed, gradient, of_query, of_key, of_value, *more)


def _emulated() -> dict[str, str]:
    """The kernels with emulated matrix tiles, by the name of those that they are otherwise."""
    found = {}
    for name in ("baseline", "avx512"):
        try:
            found[name] = _kernels.Kernels(f"{name}-amx-emulated").name
        except ValueError:
            continue
    return found


_EMULATED = _emulated()


def _single_positions(call: Call, inputs: int, outputs: int) -> list[int]:
    """Single weights, or pairs of neighbours."""
    count = call.random.randint(0, min(inputs * outputs, 300))
    if call.random.random() < 0.3 and inputs % 2 == count % 2 == 0:
        pairs = call.random.sample(range(0, inputs * outputs, 2), count // 2)
        return sorted(position + other for position in pairs for other in (0, 1))
    return sorted(call.random.sample(range(inputs * outputs), count))


def _block_positions(call: Call, inputs: int, outputs: int) -> list[int]:
    """Whole blocks of 16 outputs by 32 inputs."""
    blocks = range(inputs * outputs // 512)
    chosen = np.isin(blocks, call.random.sample(blocks, call.random.randint(0, len(blocks))))
    active = np.kron(chosen.reshape(outputs // 16, inputs // 32), np.ones((16, 32), np.bool_))
    return [int(position) for position in np.flatnonzero(active)]


def linear(call: Call) -> None:
    """Sparse linear layers."""
    draw = call.random.randint
    images, inputs, outputs = draw(1, 30 * call.lanes), draw(1, 200), draw(1, 60)
    is_blocks = call.random.random() < 0.3
    if is_blocks:
        images, inputs, outputs = draw(1, 100), 32 * draw(1, 3), 16 * draw(1, 3)
    elif call.random.random() < 0.02:
        inputs = draw(2**16 - 1, 2**16 + 200)
    active = _block_positions(call, inputs, outputs) if is_blocks else _single_positions(call, inputs, outputs)
    count = len(active)
    dtype = call.random.choice([np.int32, np.int64])
    positions = call.array(np.dtype(dtype).str[1:], count)
    if call.takes(positions, count, dtype):
        positions[...] = active
        if call.odd() and count:
            limits = np.iinfo(dtype)
            positions[draw(0, count - 1)] = call.random.choice([-1, 0, inputs * outputs, limits.max, limits.min])
    sizes = call.integer(outputs), call.integer(inputs)
    pattern = call.do(_kernels.SparsityPattern, positions, *sizes, call.threads())
    if call.random.random() < 0.3:
        call.change()
    name = call.kernels.name
    name = call.random.choice([name, _EMULATED.get(name, name)])
    kernels = _kernels.LinearKernels(name, call.random.random() < 0.5)
    x, out, gradient, made = (call.features(images, side) for side in (inputs, outputs, outputs, inputs))
    if call.odd():
        out = x
    values, gradients = call.array("f4", count), call.array("f4", count)
    start = call.random.choice([None, out, call.features(images, outputs)])
    behind = call.random.choice([None, made, call.features(images, inputs)])
    sums = call.random.choice([None, call.array("f8", outputs, 2)])
    bias = call.random.choice([None, call.array("f4", outputs)])
    call.random.choice([
        lambda: call.do(kernels.forward, x, out, start, pattern, values, sums, call.threads(), bias),
        lambda: call.do(kernels.weight_gradient, x, gradient, pattern, gradients, call.threads()),
        lambda: call.do(kernels.input_gradient, gradient, pattern, values, made, behind, call.threads()),
        lambda: call.do(kernels.backward, x, gradient, pattern, values, gradients, made, behind, call.threads()),
    ])()  # fmt: skip


ENTRIES = (
    convolution,
    convolution,
    gradients,
    gradients,
    passes,
    passes,
    pooling,
    pooling,
    shapes,
    functions,
    products,
    norms,
    pictures,
    lists,
    by_rows,
    attention,
    trained_attention,
    linear,
    linear,
)
