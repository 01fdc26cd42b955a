#include "replay/host_store.hpp"

#include <algorithm>

namespace pyrl::replay {

template <class Body>
void HostStore::with_draw(const Body& body) {
  const RandomStream before = random({});
  try {
    body(RandomStream{random_.key, random_.next_draw()});
  } catch (...) {
    random_ = before;
    throw;
  }
}

void HostStore::select(const RandomStream& stream, const Selection& selection, std::int64_t* index) {
  slots_.resize(static_cast<std::size_t>(selection.count));
  Selector& selector = by_priority_ ? static_cast<Selector&>(*by_priority_) : uniform_;
  selector.draw(*ring_, stream, selection, index, slots_.data());
}

void HostStore::draw(const Selection& selection, std::int64_t* index, void*, const CudaStream&) {
  with_draw([&](const RandomStream& stream) { select(stream, selection, index); });
}

void HostStore::sample(const Selection& selection, GatherArgs& args, std::int64_t* index, void*, const CudaStream&) {
  with_draw([&](const RandomStream& stream) {
    select(stream, selection, index);
    args.slots = slots_.data();
    gather(*ring_, args);
  });
}

std::int64_t HostStore::get(GatherArgs& args, const std::int64_t* index, std::int64_t* copy, void*, const CudaStream&) {
  slots_.resize(static_cast<std::size_t>(args.count));
  if (ring_->find(index, args.count, args.window.frame_stack, slots_.data()) != 0) return first_missing(slots_.data(), args.count);
  std::copy_n(index, args.count, copy);
  args.slots = slots_.data();
  gather(*ring_, args);
  return -1;
}

void HostStore::shuffle(std::int64_t count, std::int64_t* index, const CudaStream&) {
  slots_.resize(static_cast<std::size_t>(count));
  with_draw([&](const RandomStream& stream) { uniform_.draw(*ring_, stream, {count, false}, index, slots_.data()); });
}

void HostStore::prioritize(const PriorityOptions& options, const CudaStream&) {
  by_priority_ = std::make_unique<PrioritizedSelector>(ring_->num_slots(), options);
  ring_->set_selector(by_priority_.get());
}

template <class Real>
void HostStore::update_any(const std::int64_t* index, const Real* priority, std::int64_t count) {
  slots_.resize(static_cast<std::size_t>(count));
  stale_updates_ += ring_->find(index, count, 1, slots_.data());
  by_priority_->update(slots_.data(), priority, count);
}

std::int64_t HostStore::weigh(const Selection& selection, const std::int64_t* index, void*, const CudaStream&) {
  slots_.resize(static_cast<std::size_t>(selection.count));
  if (ring_->find(index, selection.count, 1, slots_.data()) != 0) return first_missing(slots_.data(), selection.count);
  by_priority_->weigh(selection, slots_.data());
  return -1;
}

std::vector<double> HostStore::leaves(const CudaStream&) {
  std::vector<double> leaves(static_cast<std::size_t>(ring_->num_slots()));
  for (std::size_t slot = 0; slot < leaves.size(); ++slot) leaves[slot] = by_priority_->tree().get(static_cast<std::int64_t>(slot));
  return leaves;
}

RandomStream HostStore::random(const CudaStream&) {
  owner_.claim(random_);
  return random_;
}

void HostStore::set_random(const RandomStream& random, const CudaStream&) {
  random_ = random;
  owner_.set();
}

void HostStore::restore(const LaneRing*, const std::vector<double>& leaves, const CudaStream&) {
  if (!by_priority_) return;
  by_priority_->clear();
  for (std::size_t slot = 0; slot < leaves.size(); ++slot) by_priority_->set(static_cast<std::int64_t>(slot), leaves[slot]);
}

}  // namespace pyrl::replay
