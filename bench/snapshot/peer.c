/*
 * What a program does with plain LMDB where Quicksilver makes and restores snapshots.
 *
 *   peer out DIR             copies the environment to standard output, as mdb_copy does: one read
 *                            transaction, held until whoever reads has taken everything
 */
#include <lmdb.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int failed(int code, const char *doing)
{
	if (code != MDB_SUCCESS)
		fprintf(stderr, "peer: %s: %s\n", doing, mdb_strerror(code));
	return code != MDB_SUCCESS;
}

int main(int argc, char **argv)
{
	MDB_env *env;
	if (argc != 3 || strcmp(argv[1], "out") != 0) {
		fprintf(stderr, "usage: peer out DIR\n");
		return 2;
	}
	if (failed(mdb_env_create(&env), "creating") ||
	    failed(mdb_env_open(env, argv[2], MDB_RDONLY, 0640), "opening") ||
	    failed(mdb_env_copyfd2(env, STDOUT_FILENO, 0), "copying"))
		return 1;
	mdb_env_close(env);
	return 0;
}
