#include "sampling/epsilon_greedy.hpp"

#include <cmath>
#include <vector>

#include "sampling/categorical.hpp"
#include "sampling/uniform_indices.hpp"

namespace pyrl::sampling {
namespace {

// Uniform ones, of draw 1.
template <class Real>
std::vector<std::int64_t> explore(const EpsilonGreedyArgs<Real>& args) {
  const std::int64_t batch = args.value.extent[0], choices = args.value.extent[1];
  std::vector<std::int64_t> action(static_cast<std::size_t>(batch));
  const DrawSource draw{args.random.key, args.random.draw + 1, nullptr};
  if (!args.mask.present()) {
    uniform_indices({{action.data(), {batch}}, static_cast<std::uint64_t>(choices), draw});
    return action;
  }
  const std::vector<float> logits(static_cast<std::size_t>(batch * choices));
  std::vector<float> log_prob(static_cast<std::size_t>(batch));
  CategoricalArgs call;
  call.logits = {logits.data(), {batch, choices}};
  call.mask = args.mask;
  call.nvec = {&choices, {1}};
  call.action = {action.data(), {batch, 1}};
  call.log_prob = {log_prob.data(), {batch}};
  call.random = draw;
  sample_categorical(call);
  return action;
}

}  // namespace

template <class Real>
void epsilon_greedy(const EpsilonGreedyArgs<Real>& args) {
  const std::int64_t batch = args.value.extent[0], choices = args.value.extent[1];
  const bool draws = args.epsilon >= 0 || args.epsilons.present(), tells = args.taken.present() || args.largest.present();
  std::vector<std::int64_t> chance, uniform;
  if (draws) {
    chance.resize(static_cast<std::size_t>(batch));
    uniform_indices({{chance.data(), {batch}}, std::uint64_t{1} << 53, {args.random.key, args.random.draw, nullptr}});
    uniform = explore(args);
  }
  for (std::int64_t row = 0; row < batch; ++row) {
    const double epsilon = args.epsilons.present() ? args.epsilons(row) : args.epsilon;
    const bool explores = draws && static_cast<double>(chance[static_cast<std::size_t>(row)]) * 0x1p-53 < epsilon;
    if (explores) args.action(row) = uniform[static_cast<std::size_t>(row)];
    if (explores && !tells) continue;
    const auto value = [&](std::int64_t k) { return args.mask.present() && !args.mask(row, k) ? static_cast<Real>(forbidden_value) : args.value(row, k); };
    std::int64_t best = 0;
    Real largest = value(0);
    for (std::int64_t k = 1; k < choices && !std::isnan(largest); ++k)
      if (const Real other = value(k); other > largest || std::isnan(other)) largest = other, best = k;
    if (!explores) args.action(row) = best;
    if (args.largest.present()) args.largest(row) = largest;
    if (args.taken.present()) args.taken(row) = value(args.action(row));
  }
}

template void epsilon_greedy(const EpsilonGreedyArgs<float>&);
template void epsilon_greedy(const EpsilonGreedyArgs<double>&);

}  // namespace pyrl::sampling
