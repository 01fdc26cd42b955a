// What was added since a ring on a device was last brought up to date, packed for one copy.
//
//   records   one behind the other: reward, other columns | next observation | observation, where the device needs it
//   entries   [adds, lanes] of 4 bytes: what the add says of the row, and where its record is
//
// The observation is packed only where a stream begins, or where it has not been compared yet (Outcome unknown): else it is in the ring
// already, as the pending one. So a journal holds the new records, each of the three groups rounded up to 4 bytes, and 4 bytes a row.
#pragma once

#include <cstdint>
#include <vector>

#include "replay/lane_ring.hpp"
#include "replay/gpu/kernels.hpp"

namespace pyrl::replay {

class Journal {
 public:
  Journal(const RecordLayout& layout, const StreamOptions& options);

  // Bytes that one add takes at most.
  std::int64_t most_bytes() const { return options_.num_lanes * (entry_bytes + record_bytes_); }

  // Starts anew in `block`, 4-byte aligned.
  void start(std::uint8_t* block, std::int64_t block_bytes);
  // Whether one more add fits, whatever it brings.
  bool fits() const { return bytes() + most_bytes() <= block_bytes_; }
  // `outcome` of each row, as the host's ring decided; null: the device compares.
  void append(const AddArgs& rows, const Outcome* outcome);
  std::int64_t adds() const { return static_cast<std::int64_t>(entries_.size()) / options_.num_lanes; }
  std::int64_t bytes() const { return used_ + entry_bytes * static_cast<std::int64_t>(entries_.size()); }
  // Writes the entries behind the records; the block is complete.
  void close();
  // The rows of a closed journal, once the block has been copied to `block` on the device.
  JournalRows rows(const std::uint8_t* block) const;

 private:
  static constexpr std::int64_t entry_bytes = 4;

  void pack(std::int64_t at, const void* const* arrays, bool observations, std::int64_t lane);

  std::vector<Column> columns_;
  StreamOptions options_;
  std::int64_t next_at_, observation_at_, record_bytes_;  // of the largest record
  std::uint8_t* block_ = nullptr;
  std::int64_t block_bytes_ = 0, used_ = 0;
  std::vector<std::uint32_t> entries_;
};

}  // namespace pyrl::replay
