# What docs/exporting.md says, done. Needs python3-torch and python3-torchvision.
add_test(NAME exporting_guide
  COMMAND /usr/bin/python3 -B ${CMAKE_CURRENT_LIST_DIR}/exporting_guide.py $<TARGET_FILE:tempo>)
set_tests_properties(exporting_guide PROPERTIES LABELS slow TIMEOUT 600
  ENVIRONMENT OMP_WAIT_POLICY=passive)
