// The product at one SIMD level. Included once a level, inside the compiler's options for it, with PYRL_NN_LEVEL (the namespace),
// PYRL_NN_VECTOR (bytes) and PYRL_NN_REGISTERS defined.

namespace pyrl::nn::PYRL_NN_LEVEL {

template <class Real>
struct Simd {
  typedef Real Vector __attribute__((vector_size(PYRL_NN_VECTOR)));
  static constexpr int width = PYRL_NN_VECTOR / static_cast<int>(sizeof(Real));
};

constexpr int most_vectors = PYRL_NN_REGISTERS >= 32 ? 4 : 3;
// Accumulators, a row of B and one broadcast fill the registers.
constexpr int tile_rows(int vectors) {
  const int rows = (PYRL_NN_REGISTERS - 1 - vectors) / vectors;
  return rows < 12 ? rows : 12;
}

template <class Real>
struct Panel {
  const Real* b;
  std::int64_t b_row;
  const Real* init;   // null: zero
  std::int64_t width; // columns that exist; the last vector may be partial
};

template <class Real>
inline __attribute__((always_inline)) typename Simd<Real>::Vector load(const Real* from) {
  typename Simd<Real>::Vector value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}

template <class Real, int rows, int vectors>
inline __attribute__((always_inline)) void tile(const Product<Real>& p, std::int64_t row, const Panel<Real>& panel, Real* to) {
  using Vector = typename Simd<Real>::Vector;
  constexpr int width = Simd<Real>::width;
  Vector sum[rows][vectors];
  for (int v = 0; v < vectors; ++v) {
    Vector first{};
    if (panel.init != nullptr) {
      const std::int64_t left = panel.width - v * width;
      if (left >= width) {
        first = load(panel.init + v * width);
      } else {
        for (int lane = 0; lane < left; ++lane) first[lane] = panel.init[v * width + lane];
      }
    }
    for (int i = 0; i < rows; ++i) sum[i][v] = first;
  }
  const Real* a = p.a + row * p.a_row;
  const Real* b = panel.b;
  for (std::int64_t step = 0; step < p.depth; ++step) {
    Vector right[vectors];
    for (int v = 0; v < vectors; ++v) right[v] = load(b + v * width);
    for (int i = 0; i < rows; ++i) {
      const Real left = a[i * p.a_row];
      for (int v = 0; v < vectors; ++v) sum[i][v] += left * right[v];
    }
    a += p.a_step;
    b += panel.b_row;
  }
  for (int i = 0; i < rows; ++i) {
    Real* const out = to + (row + i) * p.c_row;
    for (int v = 0; v < vectors - 1; ++v) __builtin_memcpy(out + v * width, &sum[i][v], sizeof(Vector));
    const std::int64_t left = panel.width - (vectors - 1) * width;
    if (left >= width) {
      __builtin_memcpy(out + (vectors - 1) * width, &sum[i][vectors - 1], sizeof(Vector));
    } else {
      for (int lane = 0; lane < left; ++lane) out[(vectors - 1) * width + lane] = sum[i][vectors - 1][lane];
    }
  }
}

template <class Real, int vectors>
void panel_rows(const Product<Real>& p, const Panel<Real>& panel, Real* to) {
  constexpr int most = tile_rows(vectors);
  std::int64_t row = 0;
  for (; row + most <= p.rows; row += most) tile<Real, most, vectors>(p, row, panel, to);
  if constexpr (most > 8)
    for (; row + 8 <= p.rows; row += 8) tile<Real, 8, vectors>(p, row, panel, to);
  if constexpr (most > 4)
    for (; row + 4 <= p.rows; row += 4) tile<Real, 4, vectors>(p, row, panel, to);
  for (; row + 2 <= p.rows; row += 2) tile<Real, 2, vectors>(p, row, panel, to);
  for (; row < p.rows; ++row) tile<Real, 1, vectors>(p, row, panel, to);
}

template <class Real>
Real sum_of(typename Simd<Real>::Vector value) {
  constexpr int width = Simd<Real>::width;
  Real lanes[width];
  __builtin_memcpy(lanes, &value, sizeof value);
  for (int half = width / 2; half > 0; half /= 2)
    for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  return lanes[0];
}

// One to four columns: dot products along P, of contiguous rows of A and of columns of B copied out to `packed` [N, P].
template <class Real>
void narrow(const Product<Real>& p, Real* packed) {
  using Vector = typename Simd<Real>::Vector;
  constexpr int width = Simd<Real>::width;
  for (std::int64_t j = 0; j < p.columns; ++j)
    for (std::int64_t step = 0; step < p.depth; ++step) packed[j * p.depth + step] = p.b[step * p.b_row + j];
  for (std::int64_t i = 0; i < p.rows; ++i) {
    const Real* const a = p.a + i * p.a_row;
    for (std::int64_t j = 0; j < p.columns; ++j) {
      const Real* const b = packed + j * p.depth;
      Vector sums{};
      std::int64_t step = 0;
      for (; step + width <= p.depth; step += width) sums += load(a + step) * load(b + step);
      Real total = sum_of<Real>(sums);
      for (; step < p.depth; ++step) total += a[step] * b[step];
      p.c[i * p.c_row + j] = total + (p.init != nullptr ? p.init[j] : Real(0));
    }
  }
}

// `packed` holds at least depth * max(4, most_vectors * width) numbers.
template <class Real>
void multiply(const Product<Real>& p, Real* packed) {
  constexpr int width = Simd<Real>::width;
  if (p.columns <= 4 && p.a_step == 1) return narrow(p, packed);
  const std::int64_t row_vectors = (p.columns + width - 1) / width, panels = (row_vectors + most_vectors - 1) / most_vectors;
  const bool pack = p.rows >= 4 * tile_rows(most_vectors) && p.b_row * static_cast<std::int64_t>(sizeof(Real)) >= 512;
  std::int64_t first = 0;  // vector
  for (std::int64_t k = 0; k < panels; ++k) {
    const std::int64_t vectors = (row_vectors - first) / (panels - k), column = first * width;
    Panel<Real> panel{p.b + column, p.b_row, p.init == nullptr ? nullptr : p.init + column, p.columns - column};
    if (panel.width > vectors * width) panel.width = vectors * width;
    if (pack || panel.width < vectors * width) {
      for (std::int64_t step = 0; step < p.depth; ++step) {
        Real* const to = packed + step * vectors * width;
        const Real* const from = panel.b + step * p.b_row;
        std::int64_t j = 0;
        for (; j + width <= panel.width; j += width) __builtin_memcpy(to + j, from + j, PYRL_NN_VECTOR);
        for (; j < panel.width; ++j) to[j] = from[j];
        for (; j < vectors * width; ++j) to[j] = 0;
      }
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

}  // namespace pyrl::nn::PYRL_NN_LEVEL
