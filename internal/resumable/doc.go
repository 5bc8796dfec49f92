// Package resumable is a byte stream that survives the loss of what carries it.
//
// Both ends number the bytes that they send, keep them until the other end has
// acknowledged them, and when a new carrier comes tell each other what they have got
// and send the rest: nothing is lost and nothing comes twice, wherever the carrier
// before was cut. What an end may keep is bounded; a writer waits at the bound, as it
// would for a full socket.
//
// Who brings the carriers also brings the words by which the two ends find each
// other: an end calls [Conn.Next], tells the other end [Link.Received] in its own
// way, is told the other's, and calls [Link.Carry].
//
// On a carrier each frame begins with a number, encoded as an unsigned varint
// (encoding/binary), whose lowest two bits are the kind:
//
//	0  data: the number of bytes, which follow
//	1  acknowledgement: how much of the other direction has been consumed, from its
//	   beginning, which is also the permission to send that much and the bound more
//	2  the end of this direction; it counts as one byte
//	3  the end of the stream, after the end of the direction: the length of a reason,
//	   which follows; it counts as one byte
//
// Acknowledgements go along with data if there is any; alone they are sent for every
// quarter of the bound.
//
// No goroutine stands between the callers and the carrier, since each hand-over from
// one to another costs more than all else here: Write writes to the carrier, and Read
// reads from it. Only when nobody is in a Read for a while does the goroutine that
// called Carry read ahead, so that acknowledgements and the end are seen; at most the
// bound, since the other end sends no more.
//
// Goroutines: one per Carry, which ends with it.
package resumable
