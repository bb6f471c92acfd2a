# Makes one large case, compares, and takes it away.
# Usage: cmake -D CASE= -D OUT= -D PROGRAM= -P large.cmake
execute_process(COMMAND /usr/bin/python3 -B ${CMAKE_CURRENT_LIST_DIR}/make_parity.py ${OUT} ${CASE}
  COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${PROGRAM} ${OUT}/${CASE} RESULT_VARIABLE result)
file(REMOVE_RECURSE ${OUT}/${CASE})
if(NOT result EQUAL 0)
  message(FATAL_ERROR "${CASE}: Tempo and PyTorch disagree, or Tempo failed (${result})")
endif()
