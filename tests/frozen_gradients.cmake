# Gradients with and without frozen parameters, of whole models.
tempo_test(frozen_gradients_test.cc LABEL fast DEPS tempo_train tempo_linear tempo_model_zoo)
