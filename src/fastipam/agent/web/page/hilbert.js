// The same Hilbert curve as in fastipam/picture/hilbert.py.

// Return the number at each cell, row by row, of a curve of 2**bits numbers.
export function hilbertGrid(bits) {
  let grid = { width: 1, height: 1, order: new Int32Array(1) };
  for (let done = 0; done < bits; done += 2) {
    const side = grid.width, from = grid.order, quarter = side * side;
    const whole = bits - done > 1;
    const width = 2 * side, height = whole ? width : side;
    const order = new Int32Array(width * height);
    for (let row = 0; row < side; row++) {
      for (let column = 0; column < side; column++) {
        const at = row * width + column;
        const same = from[row * side + column];
        order[at] = from[column * side + row];
        order[at + side] = same + quarter;
        if (whole) {
          const below = at + side * width;
          order[below] = from[(side - 1 - column) * side + (side - 1 - row)] + 3 * quarter;
          order[below + side] = same + 2 * quarter;
        }
      }
    }
    grid = { width, height, order };
  }
  return grid;
}
