// The product at one SIMD level. Included once a level, inside the compiler's options for it, with PYRL_NN_LEVEL (the namespace),
// PYRL_NN_VECTOR (bytes) and PYRL_NN_REGISTERS defined.

namespace pyrl::nn::PYRL_NN_LEVEL {

template <class Real, int lanes>
struct Lanes {
  typedef Real Vector __attribute__((vector_size(lanes * sizeof(Real))));
  typedef Real InMemory __attribute__((vector_size(lanes * sizeof(Real)), aligned(alignof(Real)), may_alias));
};

template <class Real>
struct Simd : Lanes<Real, PYRL_NN_VECTOR / static_cast<int>(sizeof(Real))> {
  static constexpr int width = PYRL_NN_VECTOR / static_cast<int>(sizeof(Real));
};


constexpr int most_vectors = PYRL_NN_REGISTERS >= 32 ? 4 : 3;
// Accumulators, a row of B and one broadcast fill the registers; beyond eight rows we run out of address registers.
constexpr int tile_rows(int vectors) {
  const int rows = (PYRL_NN_REGISTERS - 1 - vectors) / vectors;
  return rows < 8 ? rows : 8;
}

template <class Real>
struct Panel {
  const Real* b;
  std::int64_t b_row;
  const Real* init;   // null: zero
  std::int64_t width; // columns that exist; the last vector may be partial
};

template <class Real, int lanes = Simd<Real>::width>
inline __attribute__((always_inline)) typename Lanes<Real, lanes>::Vector load(const Real* from) {
  return *reinterpret_cast<const typename Lanes<Real, lanes>::InMemory*>(from);
}
template <class Real, int lanes = Simd<Real>::width>
inline __attribute__((always_inline)) void store(typename Lanes<Real, lanes>::Vector value, Real* to) {
  *reinterpret_cast<typename Lanes<Real, lanes>::InMemory*>(to) = value;
}

// to[0 ... n - 1] = from[0 ... n - 1] for n < 2 * size, by two copies that may overlap.
template <int size, class Real>
inline __attribute__((always_inline)) void copy_few(const Real* from, std::int64_t n, Real* to) {
  if (n >= size) {
    __builtin_memcpy(to, from, size * sizeof(Real));
    __builtin_memcpy(to + n - size, from + n - size, size * sizeof(Real));
  } else if constexpr (size > 1) {
    copy_few<size / 2>(from, n, to);
  }
}

template <class Real>
typename Simd<Real>::Vector load_few(const Real* from, std::int64_t n) {
  Real lanes[Simd<Real>::width] = {};
  copy_few<Simd<Real>::width / 2>(from, n, lanes);
  return load(lanes);
}
template <class Real>
void store_few(typename Simd<Real>::Vector value, std::int64_t n, Real* to) {
  Real lanes[Simd<Real>::width];
  store(value, lanes);
  copy_few<Simd<Real>::width / 2>(lanes, n, to);
}

// One vector or number of C; `seen` is read by the gates only.
template <class Number, class Seen>
inline __attribute__((always_inline)) Number finished(Finish finish, Number c, const Seen& seen) {
  const Number zero{};
  switch (finish) {
    case Finish::Relu: return c < zero ? zero : c;
    case Finish::ReluGate: return seen() <= zero ? zero : c;
    case Finish::TanhGate: {
      const Number y = seen();
      return c - c * (y * y);
    }
    case Finish::None: break;
  }
  return c;
}

template <class Real, int rows, int vectors>
inline __attribute__((always_inline)) void tile(const Product<Real>& p, std::int64_t row, const Panel<Real>& panel, Real* to) {
  using Vector = typename Simd<Real>::Vector;
  constexpr int width = Simd<Real>::width;
  constexpr int whole = vectors - 1;  // of the vectors; the last may be partial
  const std::int64_t rest = panel.width - whole * width;
  Vector sum[rows][vectors];
  PYRL_UNROLL for (int v = 0; v < vectors; ++v) {
    Vector first{};
    if (panel.init != nullptr) first = v < whole || rest == width ? load(panel.init + v * width) : load_few(panel.init + v * width, rest);
    PYRL_UNROLL for (int i = 0; i < rows; ++i) sum[i][v] = first;
  }
  const Real* a = p.a + row * p.a_row;
  const Real* b = panel.b;
  for (std::int64_t step = 0; step < p.depth; ++step) {
    Vector right[vectors];
    PYRL_UNROLL for (int v = 0; v < vectors; ++v) right[v] = load(b + v * width);
    PYRL_UNROLL for (int i = 0; i < rows; ++i) {
      const Real left = a[i * p.a_row];
      PYRL_UNROLL for (int v = 0; v < vectors; ++v) sum[i][v] += left * right[v];
    }
    a += p.a_step;
    b += panel.b_row;
  }
  if (p.finish != Finish::None) {
    const Real* const seen = p.seen == nullptr ? nullptr : p.seen + (to - p.c) + row * p.c_row;
    PYRL_UNROLL for (int i = 0; i < rows; ++i)
      PYRL_UNROLL for (int v = 0; v < vectors; ++v)
        sum[i][v] = finished(p.finish, sum[i][v], [&]() PYRL_INLINE_LAMBDA {
          const Real* const from = seen + i * p.c_row + v * width;
          return v < whole || rest == width ? load(from) : load_few(from, rest);
        });
  }
  PYRL_UNROLL for (int i = 0; i < rows; ++i) {
    Real* const out = to + (row + i) * p.c_row;
    PYRL_UNROLL for (int v = 0; v < whole; ++v) store(sum[i][v], out + v * width);
    if (rest == width) {
      store(sum[i][whole], out + whole * width);
    } else {
      store_few(sum[i][whole], rest, out + whole * width);
    }
  }
}

template <class Real, int vectors>
void panel_rows(const Product<Real>& p, const Panel<Real>& panel, Real* to) {
  constexpr int most = tile_rows(vectors);
  std::int64_t row = 0;
  for (; row + most <= p.rows; row += most) tile<Real, most, vectors>(p, row, panel, to);
  if constexpr (most > 4)
    for (; row + 4 <= p.rows; row += 4) tile<Real, 4, vectors>(p, row, panel, to);
  for (; row + 2 <= p.rows; row += 2) tile<Real, 2, vectors>(p, row, panel, to);
  for (; row < p.rows; ++row) tile<Real, 1, vectors>(p, row, panel, to);
}

// A step of a transposition: in each block of 2 * distance numbers, the second half of `a` and the first half of `b` change places.
template <int distance, class Vector, int... lane>
inline __attribute__((always_inline)) void exchange(Vector& a, Vector& b, std::integer_sequence<int, lane...>) {
  constexpr int lanes = sizeof...(lane);
  const Vector low = __builtin_shufflevector(a, b, ((lane & distance) == 0 ? lane : lanes + lane - distance)...);
  b = __builtin_shufflevector(a, b, ((lane & distance) == 0 ? lane + distance : lanes + lane)...);
  a = low;
}

template <int distance, class Vector, int lanes>
inline __attribute__((always_inline)) void transpose_square(Vector (&row)[lanes]) {
  for (int i = 0; i < lanes; ++i)
    if ((i & distance) == 0) exchange<distance>(row[i], row[i + distance], std::make_integer_sequence<int, lanes>{});
  if constexpr (2 * distance < lanes) transpose_square<2 * distance>(row);
}

// to[j * to_row + i] = from[i * from_row + j], by squares; what is left over by smaller ones.
template <class Real, int lanes>
void transpose_squares(const Real* from, std::int64_t from_row, std::int64_t rows, std::int64_t columns, Real* to, std::int64_t to_row) {
  const std::int64_t whole_rows = rows / lanes * lanes, whole_columns = columns / lanes * lanes;
  for (std::int64_t i = 0; i < whole_rows; i += lanes) {
    for (std::int64_t j = 0; j < whole_columns; j += lanes) {
      if constexpr (lanes == 1) {
        to[j * to_row + i] = from[i * from_row + j];
      } else {
        typename Lanes<Real, lanes>::Vector row[lanes];
        PYRL_UNROLL for (int k = 0; k < lanes; ++k) row[k] = load<Real, lanes>(from + (i + k) * from_row + j);
        transpose_square<1>(row);
        PYRL_UNROLL for (int k = 0; k < lanes; ++k) store<Real, lanes>(row[k], to + (j + k) * to_row + i);
      }
    }
  }
  if constexpr (lanes > 1) {
    constexpr int fewer = lanes > 4 ? 4 : 1;
    transpose_squares<Real, fewer>(from + whole_columns, from_row, whole_rows, columns - whole_columns, to + whole_columns * to_row, to_row);
    transpose_squares<Real, fewer>(from + whole_rows * from_row, from_row, rows - whole_rows, columns, to + whole_rows, to_row);
  }
}

template <class Real>
void transpose(const Real* from, std::int64_t from_row, std::int64_t rows, std::int64_t columns, Real* to, std::int64_t to_row) {
  // GCC makes three instructions of the finest exchange of floats in 32 bytes.
  constexpr int lanes = PYRL_NN_VECTOR == 32 && sizeof(Real) == 4 ? 4 : Simd<Real>::width;
  transpose_squares<Real, lanes>(from, from_row, rows, columns, to, to_row);
}

// Adds each sum[i] up over its lanes: lane i of the result.
template <int distance, class Vector, int count>
inline __attribute__((always_inline)) Vector add_up(Vector (&sum)[count]) {
  if constexpr (count == 1) {
    return sum[0];
  } else {
    Vector half[count / 2];
    for (int i = 0; i < count; i += 2) {
      exchange<distance>(sum[i], sum[i + 1], std::make_integer_sequence<int, sizeof(Vector) / sizeof(sum[0][0])>{});
      half[i / 2] = sum[i] + sum[i + 1];
    }
    return add_up<2 * distance>(half);
  }
}

// Up to `columns` = 1, 2 or 4 columns: dot products along P, of rows of A and of columns of B that follow one another in `b`;
// as many at a time as a vector has lanes.
template <class Real, int columns>
void narrow(const Product<Real>& p, const Real* b, std::int64_t b_row) {
  using Vector = typename Simd<Real>::Vector;
  constexpr int width = Simd<Real>::width, rows = width / columns;
  const std::int64_t whole = p.depth / width * width;
  Vector init{};
  if (p.init != nullptr)
    for (int lane = 0; lane < width; ++lane) init[lane] = p.init[std::min<std::int64_t>(lane % columns, p.columns - 1)];
  for (std::int64_t first = 0; first < p.rows; first += rows) {
    const Real *a[rows], *right[columns];
    PYRL_UNROLL for (int i = 0; i < rows; ++i) a[i] = p.a + std::min(first + i, p.rows - 1) * p.a_row;
    PYRL_UNROLL for (int j = 0; j < columns; ++j) right[j] = b + std::min<std::int64_t>(j, p.columns - 1) * b_row;
    Vector sum[width], total = init;
    PYRL_UNROLL for (Vector& x : sum) x = Vector{};
    for (std::int64_t step = 0; step < whole; step += width)
      PYRL_UNROLL for (int i = 0; i < rows; ++i)
        for (int j = 0; j < columns; ++j) sum[i * columns + j] += load(a[i] + step) * load(right[j] + step);
    for (std::int64_t step = whole; step < p.depth; ++step)
      PYRL_UNROLL for (int i = 0; i < rows; ++i)
        for (int j = 0; j < columns; ++j) total[i * columns + j] += a[i][step] * right[j][step];
    total += add_up<1>(sum);
    const std::int64_t count = std::min<std::int64_t>(rows, p.rows - first);
    Real* const to = p.c + first * p.c_row;
    if (p.finish != Finish::None) {
      for (std::int64_t i = 0; i < count; ++i)
        for (std::int64_t j = 0; j < p.columns; ++j)
          to[i * p.c_row + j] = finished<Real>(p.finish, total[i * columns + j], [&] { return p.seen[(first + i) * p.c_row + j]; });
    } else if (p.c_row == columns && count == rows) {
      store(total, to);
    } else {
      for (std::int64_t i = 0; i < count; ++i)
        for (std::int64_t j = 0; j < p.columns; ++j) to[i * p.c_row + j] = total[i * columns + j];
    }
  }
}

template <class Real>
void narrow(const Product<Real>& p, Real* packed) {
  if (!p.b_transposed) transpose(p.b, p.b_row, p.depth, p.columns, packed, p.depth);
  const Real* const b = p.b_transposed ? p.b : packed;
  const std::int64_t b_row = p.b_transposed ? p.b_row : p.depth;
  if (p.columns == 1) return narrow<Real, 1>(p, b, b_row);
  if (p.columns == 2) return narrow<Real, 2>(p, b, b_row);
  if constexpr (Simd<Real>::width >= 4) return narrow<Real, 4>(p, b, b_row);
}

// Columns [column, column + width) of B as rows of `vectors` vectors, filled up with zeros.
template <class Real>
void pack(const Product<Real>& p, std::int64_t column, std::int64_t width, std::int64_t vectors, Real* to) {
  constexpr int lanes = Simd<Real>::width;
  const std::int64_t whole = width / lanes * lanes, stride = vectors * lanes;
  if (whole < stride)
    for (std::int64_t step = 0; step < p.depth; ++step) std::fill_n(to + step * stride + whole, lanes, Real(0));
  if (p.b_transposed) return transpose(p.b + column * p.b_row, p.b_row, width, p.depth, to, stride);
  for (std::int64_t step = 0; step < p.depth; ++step) {
    const Real* const from = p.b + step * p.b_row + column;
    Real* const row = to + step * stride;
    for (std::int64_t j = 0; j < whole; j += lanes) store(load(from + j), row + j);
    copy_few<lanes / 2>(from + whole, width - whole, row + whole);
  }
}

// `packed` holds at least depth * max(4, most_vectors * width) numbers.
template <class Real>
void multiply(const Product<Real>& p, Real* packed) {
  constexpr int width = Simd<Real>::width;
  if (is_narrow(p) && p.columns <= width) return narrow(p, packed);
  const std::int64_t row_vectors = (p.columns + width - 1) / width, panels = (row_vectors + most_vectors - 1) / most_vectors;
  const bool pack_all = p.b_transposed || (p.rows >= 4 * tile_rows(most_vectors) && p.b_row * static_cast<std::int64_t>(sizeof(Real)) >= 512);
  std::int64_t first = 0;  // vector
  for (std::int64_t k = 0; k < panels; ++k) {
    const std::int64_t vectors = (row_vectors - first) / (panels - k), column = first * width;
    Panel<Real> panel{p.b + column, p.b_row, p.init == nullptr ? nullptr : p.init + column, std::min(p.columns - column, vectors * width)};
    if (pack_all || panel.width < vectors * width) {
      pack(p, column, panel.width, vectors, packed);
      panel.b = packed;
      panel.b_row = vectors * width;
    }
    Real* const to = p.c + column;
    switch (vectors) {
      case 1: panel_rows<Real, 1>(p, panel, to); break;
      case 2: panel_rows<Real, 2>(p, panel, to); break;
      case 3: panel_rows<Real, 3>(p, panel, to); break;
      default:
        if constexpr (most_vectors == 4) panel_rows<Real, 4>(p, panel, to);
    }
    first += vectors;
  }
}

template void multiply<float>(const Product<float>&, float*);
template void multiply<double>(const Product<double>&, double*);
template void transpose<float>(const float*, std::int64_t, std::int64_t, std::int64_t, float*, std::int64_t);
template void transpose<double>(const double*, std::int64_t, std::int64_t, std::int64_t, double*, std::int64_t);

}  // namespace pyrl::nn::PYRL_NN_LEVEL
