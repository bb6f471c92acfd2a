# Gradients and losses of all schemes against each other, in one process. Whole runs of the deep
# network take a minute: they count as slow.
tempo_test(scheme_equivalence_test.cc LABEL fast TIMEOUT 1500 DEPS tempo_job_runner tempo_lab_enclave
  tempo_model_zoo tempo_nn_testing)
set(slow_curves "Models/SchemeEquivalence.LossCurvesDifferAsSummationOrdersDo/1")
set_tests_properties(scheme_equivalence_test PROPERTIES
  ENVIRONMENT "GTEST_FILTER=-${slow_curves};OMP_WAIT_POLICY=passive")
add_test(NAME scheme_equivalence_loss_curves COMMAND scheme_equivalence_test)
set_tests_properties(scheme_equivalence_loss_curves PROPERTIES LABELS slow TIMEOUT 900
  ENVIRONMENT "GTEST_FILTER=${slow_curves};OMP_WAIT_POLICY=passive")
