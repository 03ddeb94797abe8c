"""Two CPUs that share a lock and a line, interrupt each other and an idle third."""

from vckernels import eventqueue
from vckernels.eventqueue import Step

program = [(Step.WORK, 5), (Step.LOCK, 0), (Step.TOUCH, 1), (Step.INTERRUPT, 2), (Step.UNLOCK, 0)]
handler = [(Step.WORK, 1), (Step.TOUCH, 1), (Step.ANSWER, 0)]
queue = eventqueue.new_event_queue([program, program, []], (handler, handler), [(0, 1, 2)] * 2, 1)
eventqueue.run(queue, 1000)
