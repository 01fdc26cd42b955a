// Where the bytes of a record are.
//
// Small columns are packed into one *hot* record a slot: the reward first, then the observation's columns, then the rest, each
// group in falling alignment, so that what a draw needs of the following record (its observation) is a prefix. A column whose
// row is wider than `cold_row_bytes` (images) gets an array of its own under the same slot numbers, so that walking over rewards
// does not touch its pages. The stride is the one for which the pair of neighbours t, t+1 touches the fewest cache lines.
#pragma once

#include <cstdint>
#include <vector>

namespace pyrl::replay {

constexpr std::int64_t cache_line = 64;
constexpr std::int64_t cold_row_bytes = 512;

struct Column {
  std::int64_t row_bytes = 0;
  std::int64_t item_bytes = 1;  // for alignment: 1, 2, 4 or 8
  bool is_observation = false;

  // Set by RecordLayout.
  bool hot = false;
  std::int64_t offset = 0;  // hot: in the record; cold: of the column's array in the store
  std::int64_t stride = 0;  // from slot to slot
  std::int64_t packed = 0;  // where its row starts among those of its group (observations, the rest), packed without gaps
};

class RecordLayout {
 public:
  // Throws ArgumentError if the store would pass 2^62 bytes.
  RecordLayout(std::vector<Column> columns, std::int64_t num_slots);

  const std::vector<Column>& columns() const { return columns_; }
  int num_observation_columns() const;
  std::int64_t stride() const { return stride_; }                          // of the hot record
  std::int64_t observation_prefix() const { return observation_prefix_; }  // bytes of it that hold reward and observation
  std::int64_t store_bytes() const { return store_bytes_; }
  std::int64_t observation_bytes() const { return observation_bytes_; }  // of one row of each observation column
  std::int64_t rest_bytes() const { return rest_bytes_; }                // of one row of each other column

 private:
  std::vector<Column> columns_;
  std::int64_t stride_ = 0, observation_prefix_ = 0, store_bytes_ = 0, observation_bytes_ = 0, rest_bytes_ = 0;
};

// Mean number of cache lines that [start, start + bytes) touches over the slots of an array with this stride.
double mean_cache_lines(std::int64_t stride, std::int64_t bytes);

}  // namespace pyrl::replay
