package resumable

// queue is bytes that are added at one end and taken from the other.
type queue struct {
	b   []byte
	off int // b[off:] is what there is
}

func (q *queue) len() int { return len(q.b) - q.off }

func (q *queue) add(p []byte) {
	if live := q.len(); len(q.b)+len(p) > cap(q.b) && live+len(p) <= cap(q.b) && live <= q.off {
		copy(q.b, q.b[q.off:]) // what is moved is no more than what was taken since
		q.b, q.off = q.b[:live], 0
	}
	q.b = append(q.b, p...)
}

// front is what there is.
func (q *queue) front() []byte { return q.b[q.off:] }

func (q *queue) drop(n int) {
	if q.off += n; q.off == len(q.b) {
		q.b, q.off = q.b[:0], 0
	}
}
