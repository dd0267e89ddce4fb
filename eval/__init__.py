"""The scoreboard: similarity, intelligibility, quality and pitch of converted speech."""
