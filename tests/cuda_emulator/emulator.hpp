// What tests ask of the emulated GPU. C++ tests call it, Python ones by ctypes: the module exports it.
#pragma once

#include <cstdint>

#define PYRL_EXPORTED extern "C" __attribute__((visibility("default")))

// Until it is plugged in, the runtime says that there is no driver. One device.
PYRL_EXPORTED void emulator_plug_in(bool present);
// Whether work is put off until something waits for it. Off at first.
PYRL_EXPORTED void emulator_be_lazy(bool lazy);
// Runs all that is put off.
PYRL_EXPORTED void emulator_synchronize();

// What is put on `stream` (null: the current one) is recorded and not done, until the end; then `emulator_replay` puts it on a stream.
PYRL_EXPORTED void emulator_begin_capture(void* stream);
PYRL_EXPORTED void* emulator_end_capture(void* stream);  // null: the capture was broken by a call that no capture allows
PYRL_EXPORTED void emulator_replay(void* graph, void* stream);
PYRL_EXPORTED std::int64_t emulator_node_count(void* graph);
PYRL_EXPORTED void emulator_destroy_graph(void* graph);

PYRL_EXPORTED void* emulator_make_stream();
PYRL_EXPORTED void emulator_destroy_stream(void* stream);
// From now on a null handle means this stream; null: the default one again.
PYRL_EXPORTED void emulator_use_stream(void* stream);
// Nothing on the stream runs until somebody waits for it: as a long kernel would have it.
PYRL_EXPORTED void emulator_hold(void* stream);
PYRL_EXPORTED void emulator_wait(void* stream);
PYRL_EXPORTED bool emulator_is_idle(void* stream);
