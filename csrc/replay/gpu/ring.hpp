// The record stream in the memory of a device: the layout of a LaneRing, its steps, and so its indices and batches, to the bit.
//
// Rows come as arrays on the device, or from the host by a journal: packed into pinned memory as they arrive, sent by one copy on a stream
// beside the caller's when they are next needed or the block is full, and added by one kernel. Four blocks take turns: the host packs, and
// copies continue, while the caller's stream is behind.
//
//     host        pack pack pack | flush            pack pack | flush
//     side stream                  copy                         copy
//     caller's    ... sample ......... (waits) add  sample ........... (waits) add  sample
//
// Either the device decides whether a row follows the record before it, or a LaneRing in host memory, which is then the authority, and of
// which this is a mirror: only new observations cross. Only calls that say so wait for the device.
//
// The calls of a ring are ordered by the caller's stream; a caller with several streams orders them. The caller holds a mutex.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "core/cuda.hpp"
#include "core/philox.hpp"
#include "replay/gpu/journal.hpp"
#include "replay/lane_ring.hpp"
#include "replay/select/prioritized.hpp"
#include "replay/gpu/backend.hpp"
#include "replay/window/gather.hpp"

namespace pyrl::replay {

class DeviceRing {
 public:
  static constexpr std::int64_t usual_block_bytes = 1 << 20;

  // For a ring of this layout and these options. Blocks are `block_bytes` long, or as long as one add.
  DeviceRing(const LaneRing& like, std::unique_ptr<RingDevice> device, const CudaStream& stream,
             std::int64_t block_bytes = usual_block_bytes);
  ~DeviceRing();

  // Refuses here, before anything has changed, whatever the next add() would have to refuse: an ArgumentError if it would have to send
  // rows and the stream is captured. A caller with a LaneRing asks before it adds the row there.
  void make_room(const CudaStream& stream);
  // Rows in host memory, of which none has a bad reward. `outcome`: what the LaneRing made of each; null: this ring finds out itself.
  void add(const AddArgs& rows, const Outcome* outcome, const CudaStream& stream);
  // Rows on the device. One whose reward is not finite is not stored, and counted.
  void add_arrays(const AddArgs& rows, const CudaStream& stream);
  // What was added is in the ring for all that comes on this stream. ArgumentError if there is something to send and the stream is captured.
  void flush(const CudaStream& stream);
  void clear(const CudaStream& stream);

  // Transitions that are certainly drawable, as far as the host knows without reading the device: a lane that was given k records holds k, or at
  // least half of its slots except for the frames of one stack. Rows on the device count whatever their rewards are, and a graph's replays
  // not at all, until the next read: so this may spare a read, and never guards memory.
  std::int64_t least_size() const { return std::max(counted_, seen_); }
  // These wait for the device. ArgumentError, as from all that wait, if the stream is captured.
  std::int64_t size(const CudaStream& stream);
  std::int64_t skipped(const CudaStream& stream);
  void check_wait(const CudaStream& stream);

  // Working memory of a batch, on the device: gather() works there, args.slots points there.
  static std::int64_t workspace_bytes(std::int64_t count) { return count * static_cast<std::int64_t>(sizeof(OpenedWindow) + sizeof(std::int64_t)); }
  static std::int64_t* slots_in(void* workspace, std::int64_t count) {
    return reinterpret_cast<std::int64_t*>(static_cast<OpenedWindow*>(workspace) + count);
  }

  // Draws of any kind: by priority if the ring is prioritized, else uniform with replacement. Slots of `workspace`; indices to `index`.
  void draw(const Selection& selection, std::int64_t* index, void* workspace, const CudaStream& stream);
  // The same, and their windows.
  void sample(const Selection& selection, const GatherArgs& args, std::int64_t* index, void* workspace, const CudaStream& stream);
  // The slots of indices on the device, -1 for those whose records are not drawable with a stack of `frames`.
  void find(const std::int64_t* index, std::int64_t count, int frames, std::int64_t* slots, const CudaStream& stream);
  // How many those were. Waits.
  std::int64_t stale(const CudaStream& stream) { return counters(stream).stale; }
  // args.slots were found.
  void gather(const GatherArgs& args, void* workspace, const CudaStream& stream);
  // selection.weight: those of slots that were found.
  void weigh(const Selection& selection, std::int64_t* slots, const CudaStream& stream);

  // Records that `host`, which is what this ring holds, has removed. Waits.
  void remove(const LaneRing& host, const std::vector<std::int64_t>& slots, const CudaStream& stream);

  // Switches to draws by priority; the ring must be empty. A LaneRing that this mirrors has no selector of its own.
  void prioritize(const PriorityOptions& options, const CudaStream& stream);
  bool is_prioritized() const { return tree_memory_ != nullptr; }
  // priority: [B] on the device; of a record that is gone, or a priority that is negative or not finite, nothing is changed but a count.
  template <class Real>
  void update_priorities(const std::int64_t* index, const Real* priority, std::int64_t count, std::int64_t* slots, const CudaStream& stream);
  // These wait.
  UpdateCounts update_counts(const CudaStream& stream);
  std::vector<double> leaves(const CudaStream& stream);
  void set_leaves(const std::vector<double>& leaves, const CudaStream& stream);

  // The stream of the draws is on the device. Both wait.
  RandomStream random(const CudaStream& stream);
  void set_random(const RandomStream& random, const CudaStream& stream) { copy(random_, &random, sizeof random, stream); }

  // Both wait. The host's ring gets what this one holds (the records' bytes too, or only the rest), or the other way round.
  void download(LaneRing& host, bool records, const CudaStream& stream);
  void upload(const LaneRing& host, const CudaStream& stream);

  // Host memory to the device, or the other way round; waits.
  void copy(void* to, const void* from, std::int64_t bytes, const CudaStream& stream);

  // Of a ring, before there is one.
  static std::int64_t nbytes(const RecordLayout& layout, const StreamOptions& options, bool prioritized);
  std::int64_t nbytes() const { return ring_bytes_ + static_cast<std::int64_t>(blocks_.size()) * block_bytes_ + tree_bytes_; }
  // Bytes of rows and their headers that were sent to the device so far.
  std::int64_t bytes_copied() const { return bytes_copied_; }

 private:
  static constexpr std::size_t num_blocks = 4;

  struct Block {
    std::shared_ptr<std::uint8_t> pinned, there;
    std::shared_ptr<void> copied, added;  // the events after which `pinned`, and `there`, may be written again
  };
  struct Pieces {
    std::shared_ptr<std::uint8_t> there;
    std::uint32_t count = 0;
  };

  using PieceLists = std::array<Pieces, 2>;  // of narrow columns, of wide ones

  Pieces list_pieces(int frame_stack, bool wide, const CudaStream& stream);
  const PieceLists& pieces_of(int frame_stack, const CudaStream& stream);
  RingCounters counters(const CudaStream& stream);
  void draw_slots(const Selection& selection, std::int64_t* slots, const CudaStream& stream);
  void copy_pieces(const GatherArgs& args, void* workspace, const CudaStream& stream);
  OpenWindow open_window(const GatherArgs& args, void* workspace) const;
  std::int64_t num_slots() const { return view_.options.num_lanes * view_.lane_capacity; }
  TreeView tree() const { return {tree_memory_.get(), num_slots()}; }
  void count_records(const AddArgs& rows);
  void recount(const std::uint8_t* flags);

  std::int64_t most_certain() const;
  template <class Rows>
  void run_add(const Rows& rows, const CudaStream& stream);

  std::unique_ptr<RingDevice> device_;
  Journal journal_;
  std::int64_t block_bytes_, ring_bytes_ = 0;
  std::shared_ptr<std::uint8_t> memory_;  // of the ring, all of it
  RingView view_;                         // into it
  RingCounters* counters_ = nullptr;      // there too
  RandomStream* random_ = nullptr;
  std::vector<Column> columns_;         // those of the view, in host memory
  std::map<int, PieceLists> pieces_;    // by frame stack; kept, for captured calls read them
  int add_threads_ = 32;

  CudaStream side_;
  std::array<Block, num_blocks> blocks_;
  std::size_t filling_ = 0;  // the block that the journal fills

  PriorityOptions priority_options_;
  std::int64_t tree_bytes_ = 0;
  std::shared_ptr<std::uint8_t> tree_memory_;  // the tree, then the two below; null: no priorities
  UpdateCounts* update_counts_ = nullptr;
  ArrayView<std::int64_t, 1> changed_;  // slots that the last add made drawable or not, -1 for none

  std::vector<std::int64_t> certain_;  // of each lane: records that are certainly drawable
  std::int64_t counted_ = 0;           // their sum
  std::int64_t seen_ = 0;              // at the last read of the size, the records that stay
  bool has_gaps_ = false;              // records were removed: then a read says nothing about which stay
  std::int64_t bytes_copied_ = 0;
};

}  // namespace pyrl::replay
