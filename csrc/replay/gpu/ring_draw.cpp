// A ring on a device: draws, and the windows that they stand for.
#include <algorithm>

#include "core/check.hpp"
#include "replay/gpu/ring.hpp"

namespace pyrl::replay {

// -- what a window's copies are -----------------------------------------------------------------------------------------------------

DeviceRing::Pieces DeviceRing::list_pieces(int frame_stack, bool wide, const CudaStream& stream) {
  std::vector<Piece> pieces;
  const int observations = view_.num_observation_columns;
  for (int c = 0; c < view_.num_columns; ++c) {
    const Column& column = columns_[static_cast<std::size_t>(c)];
    if (column.hot == wide) continue;
    const bool stacked = column.is_observation;
    const int frames = stacked ? frame_stack : 1, array = stacked || !view_.options.linked ? c : c + observations;
    for (int next = 0; next < (stacked && view_.options.linked ? 2 : 1); ++next)
      for (int frame = 0; frame < frames; ++frame)
        pieces.push_back({static_cast<std::int16_t>(c), static_cast<std::int16_t>(array + next * observations), next == 1, frame, frames});
  }
  if (pieces.empty()) return {};
  const auto bytes = static_cast<std::int64_t>(pieces.size() * sizeof(Piece));
  Pieces list{device_->allocate(bytes), static_cast<std::uint32_t>(pieces.size())};
  copy(list.there.get(), pieces.data(), bytes, stream);
  return list;
}

const DeviceRing::PieceLists& DeviceRing::pieces_of(int frame_stack, const CudaStream& stream) {
  const auto found = pieces_.find(frame_stack);
  if (found != pieces_.end()) return found->second;
  check_wait(stream);
  return pieces_.emplace(frame_stack, PieceLists{list_pieces(frame_stack, false, stream), list_pieces(frame_stack, true, stream)}).first->second;
}

// -- drawing ------------------------------------------------------------------------------------------------------------------------

OpenWindow DeviceRing::open_window(const GatherArgs& args, void* workspace) const {
  return {view_, args.window, args.slots, static_cast<OpenedWindow*>(workspace), args.reward, args.terminated, args.discount};
}

void DeviceRing::copy_pieces(const GatherArgs& args, void* workspace, const CudaStream& stream) {
  const int observations = view_.num_observation_columns;
  CopyPiece copy;
  copy.ring = view_;
  copy.windows = static_cast<const OpenedWindow*>(workspace);
  void** to = std::copy_n(args.observation, observations, copy.arrays);
  if (view_.options.linked) to = std::copy_n(args.next_observation, observations, to);
  std::copy_n(args.columns, view_.num_columns - observations, to);
  const PieceLists& lists = pieces_of(args.window.frame_stack, stream);
  for (bool wide : {false, true}) {
    const Pieces& pieces = lists[wide];
    if (pieces.count == 0) continue;
    const std::int64_t teams = args.count * pieces.count;
    PYRL_CHECK(teams < std::int64_t{1} << 31, ArgumentError, stream.function, ": ", args.count, " windows of ", pieces.count,
               " rows each, at most 2^31 rows can be copied at once");
    copy.pieces = reinterpret_cast<const Piece*>(pieces.there.get());
    copy.num_pieces = pieces.count;
    device_->run(copy, teams, wide, stream);
  }
}

void DeviceRing::draw(const Selection& selection, std::int64_t* index, void* workspace, const CudaStream& stream) {
  flush(stream);
  std::int64_t* const slots = slots_in(workspace, selection.count);
  if (is_prioritized()) {
    draw_slots(selection, slots, stream);
    return device_->run(IndexRecord{view_, slots, index}, selection.count, stream);
  }
  device_->run(DrawRecord{view_, counters_, random_, slots, index}, selection.count, stream);
  device_->run(NextDraw{random_}, 1, stream);
}

void DeviceRing::sample(const Selection& selection, const GatherArgs& args, std::int64_t* index, void* workspace, const CudaStream& stream) {
  flush(stream);
  GatherArgs drawn = args;
  std::int64_t* const slots = slots_in(workspace, args.count);
  drawn.slots = slots;
  if (is_prioritized()) {
    draw_slots(selection, slots, stream);
    device_->run(ThenOpenWindow<IndexRecord>{{view_, slots, index}, open_window(drawn, workspace)}, args.count, stream);
  } else {
    device_->run(ThenOpenWindow<DrawRecord>{{view_, counters_, random_, slots, index}, open_window(drawn, workspace)}, args.count, stream);
    device_->run(NextDraw{random_}, 1, stream);
  }
  copy_pieces(drawn, workspace, stream);
}

void DeviceRing::find(const std::int64_t* index, std::int64_t count, int frames, std::int64_t* slots, const CudaStream& stream) {
  flush(stream);
  device_->fill(&counters_->stale, 0, sizeof counters_->stale, stream);
  device_->run(FindRecord{view_, counters_, index, frames, slots}, count, stream);
}

void DeviceRing::gather(const GatherArgs& args, void* workspace, const CudaStream& stream) {
  device_->run(open_window(args, workspace), args.count, stream);
  copy_pieces(args, workspace, stream);
}

void DeviceRing::draw_slots(const Selection& selection, std::int64_t* slots, const CudaStream& stream) {
  device_->draw({tree(), {0, 0, random_}, selection.beta, selection.weight_by_buffer, {slots, {selection.count}}, selection.weight}, stream);
  device_->run(NextDraw{random_}, 1, stream);
}

void DeviceRing::weigh(const Selection& selection, std::int64_t* slots, const CudaStream& stream) {
  device_->weigh({tree(), {}, selection.beta, selection.weight_by_buffer, {slots, {selection.count}}, selection.weight}, stream);
}

}  // namespace pyrl::replay
