/* A lander on a line: burn or fall, and touch the ground slowly. An environment for pyrl in C (docs/native_environments.md).
 *
 *   cc -O2 -shared -fPIC -I "$(pyrl include)" examples/native_env.c -o libnative_env.so
 *   pyrl train ppo ./libnative_env.so:Lander
 */
#include <pyrl_env.h>
#include <stddef.h>

typedef struct lander {
  double height, speed, fuel;
} lander;

/* Indices of the parameters, which the user may set by name: env_kwargs={"gravity": 3.7}. */
enum { GRAVITY, THRUST, SAFE_SPEED };
static const char *const names[] = {"gravity", "thrust", "safe_speed"};
static const double defaults[] = {1.6, 4.0, 1.0};

static const double time_step = 0.1;

static void observe(const lander *s, float *observation) {
  observation[0] = (float)(s->height / 10.0);
  observation[1] = (float)(s->speed / 5.0);
  observation[2] = (float)s->fuel;
}

static int32_t reset(void *state, const double *parameters, const double *uniform, void *observation) {
  lander *s = (lander *)state;
  (void)parameters;
  s->height = 8.0 + 4.0 * uniform[0];
  s->speed = 2.0 * uniform[1] - 1.0;
  s->fuel = 1.0;
  observe(s, (float *)observation);
  return 0;
}

static int32_t step(void *state, const double *parameters, const double *uniform, const void *action, void *observation, double *reward,
                    uint8_t *ended) {
  lander *s = (lander *)state;
  const int burns = *(const int64_t *)action == 1 && s->fuel > 0.0;
  (void)uniform;
  s->speed += time_step * (burns ? parameters[THRUST] - parameters[GRAVITY] : -parameters[GRAVITY]);
  s->height += time_step * s->speed;
  s->fuel -= burns ? 0.01 : 0.0;
  ended[0] = s->height <= 0.0;
  ended[1] = s->height > 20.0; /* it flew away */
  *reward = burns ? -0.02 : 0.0;
  if (ended[0]) {
    const double beyond = -s->speed - parameters[SAFE_SPEED];
    *reward += beyond <= 0.0 ? 1.0 : beyond < 4.0 ? -beyond / 4.0 : -1.0;
    s->height = 0.0;
  }
  observe(s, (float *)observation);
  return 0;
}

PYRL_ENV(Lander) {
  static const pyrl_env env = {
      .version = PYRL_ENV_VERSION,
      .struct_size = sizeof(pyrl_env),
      .observation = {.kind = PYRL_BOX, .dtype = PYRL_FLOAT32, .rank = 1, .shape = {3}},
      .action = {.kind = PYRL_DISCRETE, .dtype = PYRL_INT64, .shape = {2}},
      .state_size = sizeof(lander),
      .reset_uniforms = 2,
      .max_episode_steps = 200,
      .num_parameters = 3,
      .parameter_names = names,
      .parameters = defaults,
      .reset = reset,
      .step = step,
  };
  return &env;
}
