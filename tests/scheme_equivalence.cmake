# Gradients and losses of all schemes against each other, in one process.
tempo_test(scheme_equivalence_test.cc LABEL fast DEPS tempo_job_runner tempo_model_zoo)
