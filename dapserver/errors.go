package dapserver

// Ids of the errors in error responses. DAP wants them to be unique and
// stable. Where Delve has one for the same thing it is used here as well, so
// that an editor which knows Delve's needs nothing new; ours begin at 7100.
const (
	idInternal           = 8888 // Delve: InternalError
	idFailedToLaunch     = 3000 // Delve: FailedToLaunch
	idFailedToAttach     = 3001 // Delve: FailedToAttach
	idFailedToInitialize = 3002 // Delve: FailedToInitialize
	idDisconnect         = 5000 // Delve: DisconnectError

	idNotInitialized     = 7100
	idAlreadyInitialized = 7101
	idAlreadyStarted     = 7102
	idNotStarted         = 7103
	idMalformed          = 7104
	idTooLarge           = 7105
	idBusy               = 7106
	idNoBackend          = 7107
	idRestart            = 7108
	idInUse              = 7109
	idNotCancelled       = 7110
	idClosing            = 7111
	idCancelled          = 7112
	idReconnecting       = 7113
	idTerminate          = 7114
	idProgram            = 7120
)

// errorKinds are all errors that this package makes, in the order of
// docs/troubleshooting.md, whose table is written from them. An error is shown to
// the user (showUser) if there is something for the user to do; the others are
// between programs.
var errorKinds = []errorKind{
	{idFailedToLaunch, "Failed to launch", "the launch failed; nothing is left of it", "what the text says"},
	{idFailedToAttach, "Failed to attach", "the attach failed", "what the text says"},
	{idFailedToInitialize, "Failed to initialize", "the editor wants what Delve cannot do", "set the editor to paths and to lines and columns from 1"},
	{idDisconnect, "Error while disconnecting", "not everything could be put back at the end", "`kubedelve restore`"},
	{idTooLarge, "Request too large", "Delve takes 4 MiB in one request", "evaluate or set less at once"},
	{idRestart, "Cannot restart", "the session cannot be restarted", "what the text says"},
	{idInUse, "Session in use", "another client has the session; the text names it", "disconnect there, or take it over: `takeOver`"},
	{idTerminate, "Cannot terminate", "the component was put under the debugger elsewhere", "end it there, or disconnect"},
	{idInternal, "Internal error", "a defect of kubedelve or of Delve", ""},
	{idNotInitialized, "Not initialized", "a request came before `initialize`", ""},
	{idAlreadyInitialized, "Already initialized", "`initialize` came twice", ""},
	{idAlreadyStarted, "Already started", "`launch` or `attach` came twice", ""},
	{idNotStarted, "No debug session", "the request needs a `launch` or `attach` that succeeded", ""},
	{idMalformed, "Malformed request", "it is no request of the protocol, or has arguments of a wrong type", ""},
	{idBusy, "Busy", "too many requests wait for Delve or for the launch", ""},
	{idNoBackend, "No connection to Delve", "the component has ended, or the way to it is lost", ""},
	{idReconnecting, "Reconnecting", "the component is rebuilt, started again or out of reach just now", ""},
	{idNotCancelled, "Nothing to cancel", "the request to be cancelled is not waiting", ""},
	{idClosing, "Session is being ended", "a request came after `disconnect`", ""},
	{idProgram, "Cannot read the debugging information", "the binary on this machine cannot be read", ""},
	{idCancelled, "cancelled", "the request was cancelled; the word is the protocol's", ""},
}

// errorKind is what is the same in all errors with an id.
type errorKind struct {
	id      int
	summary string // the response's message, for programs and logs: a few words
	when    string // when it comes, for the documentation
	todo    string // what the user can do; empty: nothing
}

// requestError is an error response in the making.
type requestError struct {
	id      int    // of errorKinds, or Delve's own
	summary string // as in errorKinds
	// details tell what is at fault, as the user knows it, and the way out: not a
	// sentence, so that they can follow the summary and a colon.
	details string
	// showUser makes the editor pop the error up; only for what the user can
	// act on.
	showUser bool
}

// newError makes an error with one of this package's ids.
func newError(id int, details string) *requestError {
	for _, kind := range errorKinds {
		if kind.id == id {
			return &requestError{id, kind.summary, details, kind.todo != ""}
		}
	}
	return &requestError{id: idInternal, summary: "Internal error", details: details}
}

func (e *requestError) Error() string {
	if e.details == "" {
		return e.summary
	}
	return e.summary + ": " + e.details
}
