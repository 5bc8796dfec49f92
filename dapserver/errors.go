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

	idNotInitialized     = 7100 // a request came before initialize
	idAlreadyInitialized = 7101
	idAlreadyStarted     = 7102 // a second launch or attach
	idNotStarted         = 7103 // the request needs a launch or attach
	idMalformed          = 7104 // well framed, but no DAP request
	idTooLarge           = 7105 // over what Delve takes
	idBusy               = 7106 // Delve or the launch is behind with what was asked
	idNoBackend          = 7107 // the connection to Delve is gone
	idRestart            = 7108 // restart, which would kill the component
	idInUse              = 7109 // another client has the session
	idNotCancelled       = 7110 // there was nothing to cancel
	idClosing            = 7111 // the session is being ended
)

// requestError is an error response in the making.
type requestError struct {
	id      int
	summary string // the response's message, for programs and logs
	details string
	// showUser makes the editor pop the error up; only for what the user can
	// act on.
	showUser bool
}

func (e *requestError) Error() string {
	if e.details == "" {
		return e.summary
	}
	return e.summary + ": " + e.details
}
