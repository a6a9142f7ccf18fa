// What the simulator alone takes: the very steps of a collection, replayed by mj_step in a C loop on every core.
// mj_loop MODEL.xml STEPS.bin: reads rollouts of E environments and T decisions, prints seconds and the sum of the last positions.
#include <mujoco/mujoco.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static mjModel *model;
static long shape[6];  // rollouts, environments, decisions, numbers of a state, steps a decision, threads
static double *states, *controls;
static mjData **data;

static void *work(void *given) {
  long first = (long)given, rollouts = shape[0], envs = shape[1], decisions = shape[2], size = shape[3];
  for (long rollout = 0; rollout < rollouts; rollout++) {
    for (long env = first; env < envs; env += shape[5]) {
      double *state = states + (rollout * envs + env) * size;
      mj_setState(model, data[env], state, mjSTATE_INTEGRATION);
      mj_forward(model, data[env]);
      mj_setState(model, data[env], state, mjSTATE_INTEGRATION);
    }
    for (long decision = 0; decision < decisions; decision++)
      for (long env = first; env < envs; env += shape[5]) {
        double *control = controls + ((rollout * envs + env) * decisions + decision) * model->nu;
        memcpy(data[env]->ctrl, control, model->nu * sizeof(double));
        for (long step = 0; step < shape[4]; step++) mj_step(model, data[env]);
      }
  }
  return NULL;
}

int main(int count, char **argument) {
  char error[1000] = "";
  FILE *file = count == 3 ? fopen(argument[2], "rb") : NULL;
  model = file ? mj_loadXML(argument[1], NULL, error, sizeof error) : NULL;
  if (!model || fread(shape, sizeof(long), 6, file) != 6) {
    fprintf(stderr, "mj_loop MODEL.xml STEPS.bin: cannot read them %s\n", error);
    return 1;
  }
  size_t state_count = shape[0] * shape[1] * shape[3], control_count = shape[0] * shape[1] * shape[2] * model->nu;
  states = malloc(state_count * sizeof(double));
  controls = malloc(control_count * sizeof(double));
  if (fread(states, sizeof(double), state_count, file) != state_count ||
      fread(controls, sizeof(double), control_count, file) != control_count) {
    fprintf(stderr, "mj_loop: %s ends too early\n", argument[2]);
    return 1;
  }
  data = malloc(shape[1] * sizeof(mjData *));
  for (long env = 0; env < shape[1]; env++) data[env] = mj_makeData(model);
  pthread_t thread[64];
  if (shape[5] < 1 || shape[5] > 64) return 1;
  struct timespec from, to;
  clock_gettime(CLOCK_MONOTONIC, &from);
  for (long one = 1; one < shape[5]; one++) pthread_create(&thread[one], NULL, work, (void *)one);
  work(0);
  for (long one = 1; one < shape[5]; one++) pthread_join(thread[one], NULL);
  clock_gettime(CLOCK_MONOTONIC, &to);
  double sum = 0;
  for (long env = 0; env < shape[1]; env++)
    for (int place = 0; place < model->nq; place++) sum += data[env]->qpos[place];
  printf("%.9f %.17g\n", to.tv_sec - from.tv_sec + 1e-9 * (to.tv_nsec - from.tv_nsec), sum);
  return 0;
}
