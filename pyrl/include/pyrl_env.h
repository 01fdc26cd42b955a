/* An environment for pyrl, in C or in anything that can be called like C. How to use it: docs/native_environments.md.
 *
 * An environment is a `pyrl_env`: sizes, spaces, and functions. A shared library exports one function for each of its environments,
 *
 *   PYRL_ENV(Name) { static const pyrl_env env = { ... }; return &env; }
 *
 * and pyrl steps it as `pyrl.envs.make("./libmyenv.so:Name")`.
 *
 * `reset` and `step` are functions of their arguments and of nothing else: state in, state out. pyrl owns the state of each
 * environment, `state_size` bytes aligned to 64 and zero before the first `reset`, and it owns the random numbers: each call gets as
 * many as it asked for, drawn from (seed, environment, step). So runs can be repeated for any number of threads. Calls for different
 * states may come from different threads at the same time. No function may throw a C++ exception.
 */
#ifndef PYRL_ENV_H
#define PYRL_ENV_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PYRL_ENV_VERSION 1u

/* What a space holds. */
#define PYRL_BOX 1      /* shape[0] x ... x shape[rank - 1] numbers of `dtype` */
#define PYRL_DISCRETE 2 /* one int64_t in 0, ..., shape[0] - 1; rank is 0, dtype is PYRL_INT64 */

#define PYRL_FLOAT32 1 /* float */
#define PYRL_UINT8 2   /* unsigned char; observations only, as of images */
#define PYRL_INT64 3   /* int64_t */

typedef struct pyrl_space {
  int32_t kind;
  int32_t dtype;
  int32_t rank;       /* 0 to 4 */
  int64_t shape[4];
  const double *low;  /* of a Box, one for each number in the order of memory; NULL: no bounds (0 and 255 for bytes) */
  const double *high;
} pyrl_space;

/* Both return 0. Any other number ends the run with a message that shows it.
 *
 *   parameters   [num_parameters]: the values of `parameter_names`, those that the user gave among them
 *   uniform      [reset_uniforms] or [step_uniforms]: independent numbers, uniform in [0, 1) on the grid of 2^-53
 *   action       what the space `action` holds; a float is within its bounds
 *   observation  to be written, all of it, at each call: what the space `observation` holds
 *   reward       [1], to be written
 *   ended        [2], zero at the call: ended[0] = 1 where the episode has terminated, so that no future has value; ended[1] = 1 where
 *                it was truncated, cut from outside. pyrl truncates at `max_episode_steps` itself, and resets what has ended.
 */
typedef int32_t (*pyrl_reset_function)(void *state, const double *parameters, const double *uniform, void *observation);
typedef int32_t (*pyrl_step_function)(void *state, const double *parameters, const double *uniform, const void *action, void *observation,
                                      double *reward, uint8_t *ended);

/* For states that own something: memory, a file, a simulator. Leave both NULL where a state is plain bytes; pyrl can then save and
 * restore it by copying them. `open` is called once for each environment, before anything else, with its number; `close` once after. */
typedef int32_t (*pyrl_open_function)(void *state, const double *parameters, uint64_t index);
typedef void (*pyrl_close_function)(void *state);

typedef struct pyrl_env {
  uint32_t version;     /* PYRL_ENV_VERSION */
  uint32_t struct_size; /* sizeof(pyrl_env) */
  pyrl_space observation;
  pyrl_space action;
  uint64_t state_size;        /* bytes */
  uint32_t reset_uniforms;    /* at most PYRL_MAX_UNIFORMS */
  uint32_t step_uniforms;
  uint32_t max_episode_steps; /* 0: no limit */
  uint32_t num_parameters;
  const char *const *parameter_names; /* [num_parameters] */
  const double *parameters;           /* [num_parameters], the values where the user gives none */
  pyrl_reset_function reset;
  pyrl_step_function step;
  pyrl_open_function open;   /* or NULL */
  pyrl_close_function close; /* or NULL */
} pyrl_env;

#define PYRL_MAX_UNIFORMS 65536u

#if defined(_WIN32)
#define PYRL_ENV_EXPORT __declspec(dllexport)
#else
#define PYRL_ENV_EXPORT __attribute__((visibility("default")))
#endif

/* The function that a shared library exports for the environment Name. */
#define PYRL_ENV(Name)                                   \
  PYRL_ENV_EXPORT const pyrl_env *pyrl_env_##Name(void); \
  const pyrl_env *pyrl_env_##Name(void)

#ifdef __cplusplus
}
#endif

#endif
