/* Environments that do what they may not, for test_native_own.py; and one that owns memory. */
#include <pyrl_env.h>
#include <stdlib.h>
#include <string.h>

typedef struct count {
  int64_t steps;
} count;

static int32_t reset(void *state, const double *parameters, const double *uniform, void *observation) {
  (void)parameters;
  ((count *)state)->steps = 0;
  ((float *)observation)[0] = (float)uniform[0];
  ((float *)observation)[1] = 0.0f;
  return 0;
}

static int32_t step(void *state, const double *parameters, const double *uniform, const void *action, void *observation, double *reward,
                    uint8_t *ended) {
  (void)uniform, (void)parameters;
  ((float *)observation)[0] = ((const float *)action)[0];
  ((float *)observation)[1] = (float)++((count *)state)->steps;
  *reward = 1.0;
  ended[0] = ((count *)state)->steps == 1000;
  return 0;
}

static int32_t reset_segfault(void *state, const double *parameters, const double *uniform, void *observation) {
  volatile int *nowhere = NULL;
  (void)state, (void)parameters, (void)uniform, (void)observation;
  *nowhere = 1;
  return 0;
}

static int32_t reset_abort(void *state, const double *parameters, const double *uniform, void *observation) {
  (void)state, (void)parameters, (void)uniform, (void)observation;
  abort();
}

static int32_t reset_exit(void *state, const double *parameters, const double *uniform, void *observation) {
  (void)state, (void)parameters, (void)uniform, (void)observation;
  _Exit(0);
}

static int32_t reset_hang(void *state, const double *parameters, const double *uniform, void *observation) {
  volatile int for_ever = 1;
  (void)state, (void)parameters, (void)uniform, (void)observation;
  while (for_ever) {
  }
  return 0;
}

static int32_t reset_too_much(void *state, const double *parameters, const double *uniform, void *observation) {
  ((float *)observation)[3] = 1.0f;
  return reset(state, parameters, uniform, observation);
}

static int32_t reset_code(void *state, const double *parameters, const double *uniform, void *observation) {
  (void)state, (void)parameters, (void)uniform, (void)observation;
  return 42;
}

/* Beyond the first look: after 300 steps. */
static int32_t step_nan(void *state, const double *parameters, const double *uniform, const void *action, void *observation, double *reward,
                        uint8_t *ended) {
  const int32_t code = step(state, parameters, uniform, action, observation, reward, ended);
  if (((count *)state)->steps == 300) memset(observation, 0xff, 4);
  return code;
}

static int32_t step_infinite_reward(void *state, const double *parameters, const double *uniform, const void *action, void *observation,
                                    double *reward, uint8_t *ended) {
  const int32_t code = step(state, parameters, uniform, action, observation, reward, ended);
  if (((count *)state)->steps == 300) *reward = 1e308 * 10.0;
  return code;
}

/* Owns a block; `alive` says how many there are. */
static int64_t alive = 0;
static int32_t open_block(void *state, const double *parameters, uint64_t index) {
  (void)parameters;
  *(void **)state = malloc(sizeof(count));
  if (index == 5) return 7;
  ++alive;
  return 0;
}
static void close_block(void *state) {
  free(*(void **)state);
  --alive;
}
static int32_t reset_block(void *state, const double *parameters, const double *uniform, void *observation) {
  return reset(*(void **)state, parameters, uniform, observation);
}
static int32_t step_block(void *state, const double *parameters, const double *uniform, const void *action, void *observation, double *reward,
                          uint8_t *ended) {
  return step(*(void **)state, parameters, uniform, action, observation, reward, ended);
}
PYRL_ENV_EXPORT int64_t blocks(void) { return alive; }

static const double low[] = {-2.0}, high[] = {0.5};

#define ENV(Name, ...)                                                                             \
  PYRL_ENV(Name) {                                                                                 \
    static const pyrl_env env = {.version = PYRL_ENV_VERSION,                                      \
                                 .struct_size = sizeof(pyrl_env),                                  \
                                 .observation = {PYRL_BOX, PYRL_FLOAT32, 1, {2}, NULL, NULL},      \
                                 .action = {PYRL_BOX, PYRL_FLOAT32, 1, {1}, low, high},            \
                                 .state_size = sizeof(count),                                      \
                                 .reset_uniforms = 1,                                              \
                                 .reset = reset,                                                   \
                                 .step = step,                                                     \
                                 __VA_ARGS__};                                                     \
    return &env;                                                                                   \
  }

ENV(Fine, .max_episode_steps = 50)
ENV(Segfault, .reset = reset_segfault)
ENV(Abort, .reset = reset_abort)
ENV(Exit, .reset = reset_exit)
ENV(Hang, .reset = reset_hang)
ENV(TooMuch, .reset = reset_too_much)
ENV(Code, .reset = reset_code)
ENV(SmallState, .state_size = 4)
ENV(NotANumber, .step = step_nan)
ENV(InfiniteReward, .step = step_infinite_reward)
ENV(OldVersion, .version = 0)
ENV(OldStruct, .struct_size = sizeof(pyrl_env) - 8)
ENV(NoSpace, .action = {0, 0, 0, {0}, NULL, NULL})
ENV(Owner, .open = open_block, .close = close_block, .reset = reset_block, .step = step_block)
PYRL_ENV(Nothing) { return NULL; }
