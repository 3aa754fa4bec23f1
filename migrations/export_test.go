package migrations

// FirstRelease is the newest migration of the first release.
const FirstRelease = firstRelease

// UpFrom applies the migrations in files while versions serve that know those up to number serving.
var UpFrom = up
