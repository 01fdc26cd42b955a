// A device that is the CPU: it runs the function objects of the CUDA twins thread by thread, in changing orders, so that everything about
// a ring on a GPU can be tested where there is none. Work may also be put off as a GPU would, see `lazy`.
#pragma once

#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <numeric>
#include <vector>

#include "replay/ring_device.hpp"

namespace pyrl::replay {

class HostRingDevice : public RingDevice {
 public:
  // `lazy`: what is put on a stream runs at some later call, streams in any order, unless events or the host wait for it.
  explicit HostRingDevice(bool lazy = false) : lazy_(lazy) {}

  bool capturing = false;

  std::shared_ptr<std::uint8_t> allocate(std::int64_t bytes) override { return remembered(bytes); }
  std::shared_ptr<std::uint8_t> allocate_pinned(std::int64_t bytes) override { return remembered(bytes); }

  void copy(void* to, const void* from, std::int64_t bytes, const CudaStream& stream) override {
    submit(stream, [=] { std::memcpy(to, from, static_cast<std::size_t>(bytes)); });
    if (!is_ours(to) || !is_ours(from)) wait(stream);
  }
  void fill(void* to, int byte, std::int64_t bytes, const CudaStream& stream) override {
    submit(stream, [=] { std::memset(to, byte, static_cast<std::size_t>(bytes)); });
  }
  void wait(const CudaStream& stream) override {
    while (!streams_[stream.handle].empty()) run_one();
  }
  bool is_capturing(const CudaStream&) override { return capturing; }

  CudaStream side_stream(const CudaStream& caller) override { return {"side", caller.device, this}; }
  std::shared_ptr<void> make_event() override { return std::make_shared<Event>(); }
  void record(void* event, const CudaStream& stream) override {
    auto* const recorded = static_cast<Event*>(event);
    const std::int64_t moment = ++recorded->recorded;
    submit(stream, [=] { recorded->reached = moment; });
  }
  void wait_for(void* event, const CudaStream& stream) override {
    const auto* const awaited = static_cast<const Event*>(event);
    const std::int64_t moment = awaited->recorded;
    streams_[stream.handle].push_back({[] {}, [=] { return awaited->reached >= moment; }});
    run_some();
  }
  void wait_for(void* event) override {
    while (static_cast<Event*>(event)->reached < static_cast<Event*>(event)->recorded) run_one();
  }

  void run(const AddLane<JournalRows>& add, std::int64_t lanes, int threads, const CudaStream& stream) override { add_lanes(add, lanes, threads, stream); }
  void run(const AddLane<ArrayRows>& add, std::int64_t lanes, int threads, const CudaStream& stream) override { add_lanes(add, lanes, threads, stream); }
  void run(const ClearLane& body, std::int64_t count, const CudaStream& stream) override { elements(body, count, stream); }
  void run(const NextDraw& body, std::int64_t count, const CudaStream& stream) override { elements(body, count, stream); }
  void run(const FindRecord& body, std::int64_t count, const CudaStream& stream) override { elements(body, count, stream); }
  void run(const OpenWindow& body, std::int64_t count, const CudaStream& stream) override { elements(body, count, stream); }
  void run(const ThenOpenWindow<DrawRecord>& body, std::int64_t count, const CudaStream& stream) override { elements(body, count, stream); }
  void run(const ThenOpenWindow<NameRecord>& body, std::int64_t count, const CudaStream& stream) override { elements(body, count, stream); }
  void run(const CopyPiece& body, std::int64_t teams, bool wide, const CudaStream& stream) override {
    submit(stream, [=, this] {
      const int threads = wide ? 128 : 8;
      in_some_order(teams * threads, [&](std::int64_t i) { body(i / threads, static_cast<int>(i % threads), threads); });
    });
  }

  void clear(const TreeView& tree, std::int64_t leaves, const CudaStream& stream) override {
    fill(tree.leaves(), 0, TreeView::bytes(leaves), stream);
    elements(ClearSmallest{tree}, ClearSmallest{tree}.threads(), stream);
  }
  void restore(const TreeView& tree, const CudaStream& stream) override { refresh_tree(tree, {}, stream); }
  void update(const UpdateArgs<float>& args, const CudaStream& stream) override { update_leaves(args, stream); }
  void update(const UpdateArgs<double>& args, const CudaStream& stream) override { update_leaves(args, stream); }
  void follow(const FollowRing& changes, const CudaStream& stream) override {
    elements(changes, changes.slots.size(), stream);
    refresh_tree(changes.tree, changes.slots, stream);
  }
  void draw(const PriorityDrawArgs& args, const CudaStream& stream) override {
    const std::int64_t count = args.slots.size();
    fill(args.tree.drawn(), 0xff, sizeof(std::uint64_t), stream);
    elements(DrawSlot{args, 1.0 / static_cast<double>(count)}, count, stream);
    elements(WeighSlot{args}, count, stream);
  }

 protected:
  // body(i) for i in [0, count), each once.
  template <class Body>
  void in_some_order(std::int64_t count, const Body& body) {
    if (count == 0) return;
    std::int64_t step = 1 + random() % count;
    while (std::gcd(step, count) != 1) ++step;
    for (std::int64_t k = 0, i = random() % count; k < count; ++k, i = (i + step) % count) body(i);
  }

 private:
  struct Event {
    std::int64_t recorded = 0, reached = 0;
  };
  struct Task {
    std::function<void()> run;
    std::function<bool()> ready;  // null: always
  };

  std::int64_t random() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<std::int64_t>(state_ >> 33);
  }

  std::shared_ptr<std::uint8_t> remembered(std::int64_t bytes) {
    auto memory = std::make_unique<std::uint64_t[]>(static_cast<std::size_t>(bytes + 7) / 8 + 1);
    auto* const data = reinterpret_cast<std::uint8_t*>(memory.get());
    ours_[data] = bytes;
    return {data, [this, owner = memory.release()](std::uint8_t* address) {
              ours_.erase(address);
              delete[] owner;
            }};
  }
  bool is_ours(const void* address) const {
    const auto* const byte = static_cast<const std::uint8_t*>(address);
    const auto after = ours_.upper_bound(byte);
    return after != ours_.begin() && byte < std::prev(after)->first + std::prev(after)->second;
  }

  template <class Body>
  void submit(const CudaStream& stream, const Body& body) {
    streams_[stream.handle].push_back({body, nullptr});
    run_some();
  }
  void run_some() {
    if (!lazy_) {
      while (waiting()) run_one();
      return;
    }
    if (random() % 8 != 0) return;
    for (std::int64_t k = random() % 4; k > 0 && waiting(); --k) run_one();
  }
  bool waiting() const {
    for (const auto& [handle, tasks] : streams_)
      if (!tasks.empty()) return true;
    return false;
  }
  // The next piece of work of any stream that has some and need not wait.
  void run_one() {
    std::vector<std::deque<Task>*> ready;
    for (auto& [handle, tasks] : streams_)
      if (!tasks.empty() && (!tasks.front().ready || tasks.front().ready())) ready.push_back(&tasks);
    if (ready.empty()) throw std::logic_error("streams wait for each other");
    std::deque<Task>& tasks = *ready[static_cast<std::size_t>(random()) % ready.size()];
    const Task task = std::move(tasks.front());
    tasks.pop_front();
    task.run();
  }

  template <class Body>
  void elements(const Body& body, std::int64_t count, const CudaStream& stream) {
    submit(stream, [=, this] { in_some_order(count, body); });
  }
  void refresh_tree(const TreeView& tree, const ArrayView<const std::int64_t, 1>& slots, const CudaStream& stream) {
    refresh(tree, slots, [&](const auto& body) { elements(body, body.threads(), stream); },
            [&](int first) {
              for (int level = first; level < tree.levels(); ++level) elements(RefreshLevel{tree, level}, tree.nodes(level), stream);
            });
  }
  template <class Real>
  void update_leaves(const UpdateArgs<Real>& args, const CudaStream& stream) {
    elements(MarkLast<Real>{args}, args.slots.size(), stream);
    elements(WriteLast<Real>{args}, args.slots.size(), stream);
    refresh_tree(args.tree, args.slots, stream);
  }
  template <class Rows>
  void add_lanes(const AddLane<Rows>& add, std::int64_t lanes, int threads, const CudaStream& stream) {
    submit(stream, [=, this] {
      in_some_order(lanes, [&](std::int64_t lane) {
        for (std::int64_t k = 0; k < add.rows.adds; ++k) {
          bool differs = false;
          in_some_order(threads, [&](std::int64_t thread) { differs |= add.differs(k, lane, static_cast<int>(thread), threads); });
          const Placed placed = add.place(k, lane, differs);
          in_some_order(threads, [&](std::int64_t thread) { add.copy(k, lane, placed, static_cast<int>(thread), threads); });
        }
      });
    });
  }

  bool lazy_;
  std::uint64_t state_ = 1;
  std::map<const std::uint8_t*, std::int64_t> ours_;
  std::map<void*, std::deque<Task>> streams_;
};

}  // namespace pyrl::replay
