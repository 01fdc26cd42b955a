#include "replay/gpu/journal.hpp"

#include <cstring>

#include "core/check.hpp"

namespace pyrl::replay {
namespace {

std::int64_t round_up(std::int64_t bytes) { return (bytes + 3) / 4 * 4; }

}  // namespace

Journal::Journal(const RecordLayout& layout, const StreamOptions& options)
    : columns_(layout.columns()),
      options_(options),
      next_at_(round_up(static_cast<std::int64_t>(sizeof(float)) + layout.rest_bytes())),
      observation_at_(next_at_ + (options.linked ? round_up(layout.observation_bytes()) : 0)),
      record_bytes_(observation_at_ + round_up(layout.observation_bytes())) {
  PYRL_CHECK(most_bytes() <= std::int64_t{4} << JournalRows::place_bits, ArgumentError, "ReplayBuffer: one add of ", options.num_lanes, " environments is ",
             most_bytes(), " bytes, at most 2^30 can be copied to a device at once");
}

void Journal::start(std::uint8_t* block, std::int64_t block_bytes) {
  block_ = block;
  block_bytes_ = std::min(block_bytes, std::int64_t{4} << JournalRows::place_bits);
  used_ = 0;
  entries_.clear();
}

void Journal::pack(std::int64_t at, const void* const* arrays, bool observations, std::int64_t lane) {
  for (const Column& column : columns_) {
    if (column.is_observation != observations) continue;
    std::memcpy(block_ + at + column.packed, static_cast<const std::uint8_t*>(*arrays++) + lane * column.row_bytes, static_cast<std::size_t>(column.row_bytes));
  }
}

void Journal::append(const AddArgs& rows, const Outcome* outcome) {
  for (std::int64_t lane = 0; lane < options_.num_lanes; ++lane) {
    AddedRow::Kind kind = rows.stores(lane) ? AddedRow::compare : AddedRow::absent;
    if (outcome != nullptr) kind = outcome[lane] == Outcome::absent ? AddedRow::absent : outcome[lane] == Outcome::follows ? AddedRow::follows : AddedRow::begins;
    const AddedRow row = AddedRow::of(kind, rows.terminated[lane], rows.truncated[lane]);
    entries_.push_back(row.bits << JournalRows::place_bits | static_cast<std::uint32_t>(used_ / 4));
    if (kind == AddedRow::absent) continue;
    std::memcpy(block_ + used_, &rows.reward[lane], sizeof(float));
    pack(used_ + static_cast<std::int64_t>(sizeof(float)), rows.columns, false, lane);
    if (options_.linked) pack(used_ + next_at_, rows.next_observation, true, lane);
    if (kind != AddedRow::follows) pack(used_ + observation_at_, rows.observation, true, lane);
    used_ += kind == AddedRow::follows ? observation_at_ : record_bytes_;
  }
}

void Journal::close() { std::memcpy(block_ + used_, entries_.data(), entries_.size() * entry_bytes); }

JournalRows Journal::rows(const std::uint8_t* block) const {
  return {block, reinterpret_cast<const std::uint32_t*>(block + used_), adds(), options_.num_lanes, next_at_, observation_at_};
}

}  // namespace pyrl::replay
